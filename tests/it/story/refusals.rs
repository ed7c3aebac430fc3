//! What a user gets wrong, and what they are told.

use super::{MINUTE, Stage};
use crate::cluster::wait;
use crate::http::As;
use serde_json::json;

impl Stage<'_> {
    pub(super) fn refusals(&self) {
        self.wrong_manifests();
        self.wrong_requests();
        self.wrong_images();
        self.says("wrong inputs are told what is wrong");
    }

    fn wrong_manifests(&self) {
        let cases = [
            ("a: [", "error converting YAML to JSON"),
            (
                "{apiVersion: v1, kind: Nothing, metadata: {name: x}}",
                "no matches for kind \"Nothing\" in version \"v1\"",
            ),
            ("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, daata: {}}", "unknown field \"daata\""),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: X_x}}",
                "The ConfigMap \"X_x\" is invalid: metadata.name: Invalid value: \"X_x\": a lowercase RFC 1123 subdomain must consist of",
            ),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, labels: {a: \"?\"}}}",
                "metadata.labels: Invalid value: \"?\": a valid label must be an empty string or consist of",
            ),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}",
                "namespaces \"nowhere\" not found",
            ),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c}]}}",
                "spec.containers[0].image: Required value",
            ),
            (
                "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: NodePort, ports: [{port: 1, nodePort: 30080}]}}",
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
            ),
            (
                "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}}",
                "`selector` does not match template `labels`",
            ),
        ];
        for (manifest, expected) in cases {
            // What begins with a brace would be read as JSON.
            let said = self.kubectl.refused(&["apply", "--validate=strict", "-f", "-"], &format!("---\n{manifest}"));
            assert!(said.contains(expected), "{manifest}\n  wanted {expected}\n  said   {said}");
        }
        let left = self.get("/api/v1/namespaces/default/configmaps/x");
        assert_eq!(left["code"], 404, "nothing half done: {left}");
    }

    fn wrong_requests(&self) {
        let api = &self.cluster.api;
        let page = "/api/v1/namespaces/shop/configmaps/page";
        let mut object = self.get(page);
        object["metadata"]["resourceVersion"] = json!("1");
        let answer = api.request(As::Admin, "PUT", page, Some(&object)).unwrap();
        assert_eq!((answer.code, &answer.json()["reason"]), (409, &json!("Conflict")));
        let answer = api.request(As::Token("forged"), "GET", page, None).unwrap();
        assert_eq!((answer.code, &answer.json()["reason"]), (401, &json!("Unauthorized")));
        // Not 403: who is nobody is told nothing but health (docs/departures.md).
        let answer = api.request(As::Nobody, "GET", page, None).unwrap();
        assert_eq!((answer.code, &answer.json()["reason"]), (401, &json!("Unauthorized")));
        let answer =
            api.request(As::Admin, "POST", "/api/v1/namespaces/shop/configmaps", Some(&json!("text"))).unwrap();
        assert_eq!((answer.code, &answer.json()["reason"]), (400, &json!("BadRequest")));
        std::fs::write("/run/huge", "x".repeat(4 << 20)).unwrap();
        let said = self.kubectl.refused(&["-n", "shop", "create", "configmap", "huge", "--from-file=/run/huge"], "");
        assert!(said.contains("Request entity too large: limit is 3145728"), "{said}");
        let said = self.kubectl.refused(&["-n", "shop", "exec", "no-such-pod", "--", "true"], "");
        assert!(said.contains("pods \"no-such-pod\" not found"), "{said}");
        let said = self.kubectl.refused(&["-n", "shop", "logs", "deployment/web", "-c", "nobody"], "");
        assert!(said.contains("container nobody is not valid for pod"), "{said}");
        let said = self.kubectl.refused(&["-n", "shop", "exec", "deployment/data", "--", "/no/such/program"], "");
        assert!(said.contains("no such file or directory"), "{said}");
    }

    /// A missing image, and a program that ends badly.
    fn wrong_images(&self) {
        self.shop(&[
            "run",
            "nowhere",
            "--image=localhost/no-such-image:1",
            "--image-pull-policy=Never",
            "--restart=Never",
        ]);
        self.shop(&["run", "crash", "--image=localhost/web:1", "--", "sh", "-c", "echo last words; exit 7"]);
        wait("the missing image is named", MINUTE, || {
            let pod = self.get("/api/v1/namespaces/shop/pods/nowhere");
            (pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull").then_some(())
        });
        wait("the crash is counted", MINUTE, || {
            let pod = self.get("/api/v1/namespaces/shop/pods/crash");
            let status = &pod["status"]["containerStatuses"][0];
            let seen = status["lastState"]["terminated"]["exitCode"] == 7 && status["restartCount"].as_u64() >= Some(1);
            (seen && status["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(())
        });
        assert_eq!(self.shop(&["logs", "crash", "--previous"]), "last words\n");
        let events = self.shop(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}{\"\\n\"}{end}"]);
        assert!(events.lines().any(|reason| reason == "BackOff") && events.contains("ErrImageNeverPull"), "{events}");
        self.shop(&["delete", "pod", "nowhere", "crash", "--timeout=60s"]);
    }
}
