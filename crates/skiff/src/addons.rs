//! What the cluster runs of itself: DNS, as an ordinary Deployment of this executable's own image.

use skiff_client::{Client, ClientError, Patch, WriteOptions};
use skiff_machinery::Value;
use skiff_machinery::codec::yaml;

const MANAGER: &str = "skiff-addons";
/// The cluster's DNS: its Deployment in `kube-system`.
pub(crate) const DNS_NAME: &str = "skiff-dns";

/// The objects of the cluster's DNS.
fn dns(image: &str, address: &str, domain: &str, api: &str) -> String {
    let (host, port) = api.rsplit_once(':').unwrap_or((api, "6443"));
    format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: "skiff:dns", labels: {{k8s-app: kube-dns}}}}
rules:
- apiGroups: [""]
  resources: [services, namespaces]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: "skiff:dns", labels: {{k8s-app: kube-dns}}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "skiff:dns"}}
subjects:
- {{kind: ServiceAccount, name: kube-dns, namespace: kube-system}}
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{k8s-app: kube-dns, kubernetes.io/name: CoreDNS, kubernetes.io/cluster-service: "true"}}
spec:
  selector: {{k8s-app: kube-dns}}
  clusterIP: {address}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
  - {{name: metrics, port: 9153, protocol: TCP}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {DNS_NAME}, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      priorityClassName: system-cluster-critical
      serviceAccountName: kube-dns
      dnsPolicy: Default
      tolerations:
      - {{key: CriticalAddonsOnly, operator: Exists}}
      - {{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}}
      securityContext:
        sysctls:
        - {{name: net.ipv4.ip_unprivileged_port_start, value: "0"}}
      containers:
      - name: dns
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [dns, "--domain={domain}", "--cluster-ip={address}"]
        env:
        - {{name: KUBERNETES_SERVICE_HOST, value: "{host}"}}
        - {{name: KUBERNETES_SERVICE_PORT, value: "{port}"}}
        resources:
          limits: {{memory: 170Mi}}
          requests: {{cpu: 100m, memory: 70Mi}}
        ports:
        - {{name: dns, containerPort: 53, protocol: UDP}}
        - {{name: dns-tcp, containerPort: 53, protocol: TCP}}
        - {{name: metrics, containerPort: 9153, protocol: TCP}}
        readinessProbe:
          httpGet: {{path: /ready, port: 8181}}
          periodSeconds: 1
        livenessProbe:
          httpGet: {{path: /health, port: 8080}}
          initialDelaySeconds: 30
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          runAsNonRoot: true
          runAsUser: 65532
          capabilities: {{drop: [ALL]}}
"#
    )
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

async fn apply(client: &Client, object: &Value) -> Result<(), ClientError> {
    let (group, version) = match object.str_at(&["apiVersion"]).split_once('/') {
        Some(pair) => pair,
        None => ("", object.str_at(&["apiVersion"])),
    };
    let resource = plural(object.str_at(&["kind"]));
    let api = match object.str_at(&["metadata", "namespace"]) {
        "" => client.all(group, version, &resource),
        namespace => client.namespaced(group, version, &resource, namespace),
    };
    let options = WriteOptions { field_manager: MANAGER.to_owned(), force: true, ..WriteOptions::default() };
    api.patch(object.str_at(&["metadata", "name"]), "", &Patch::Apply(object), &options).await.map(drop)
}

/// Brings the cluster's DNS in place by server-side apply, so that an upgrade changes it and people's own fields stay.
/// `image` is this executable's, as the node's runtime has it; `api` is where pods reach the API server.
pub(crate) async fn install_dns(
    client: &Client,
    image: &str,
    address: &str,
    domain: &str,
    api: &str,
) -> anyhow::Result<()> {
    let text = dns(image, address, domain, api);
    for document in yaml::documents(&text) {
        let object = yaml::from_slice(document?.as_bytes())?;
        apply(client, &object).await?;
    }
    Ok(())
}
