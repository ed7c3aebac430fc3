//! Fetching what pods name: ConfigMaps, Secrets, tokens, the volumes behind claims.

use crate::pod::spec::Pod;
use crate::shared::{IssuedToken, Shared};
use crate::volumes::claims::{self, Behind};
use crate::volumes::{Object, Objects};
use skiff_client::{ClientError, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Shared {
    /// Fetches every object that the pod names. What does not exist is known to be missing; what cannot be asked for is
    /// an error, because a volume must not change to empty by an outage.
    pub(crate) async fn objects(&self, pod: &Pod) -> Result<Objects, ClientError> {
        let names = crate::volumes_names(pod);
        let mut objects = Objects {
            config_maps: self.all(pod, "configmaps", names.config_maps).await?,
            secrets: self.all(pod, "secrets", names.secrets).await?,
            tokens: BTreeMap::new(),
            volumes: BTreeMap::new(),
        };
        for volume in pod.0.items_at(&["spec", "volumes"]) {
            if let Some((claim, behind)) = claims::claim_of(pod, volume) {
                let bound = self.bound_volume(pod, &claim, behind).await?;
                objects.volumes.insert(volume.str_at(&["name"]).to_owned(), bound);
            }
        }
        for (audience, seconds) in names.tokens {
            let token = self.token(pod, &audience, seconds).await?;
            objects.tokens.insert((audience, seconds), token);
        }
        Ok(objects)
    }

    /// The persistent volume behind a claim, or why there is none that the pod may use.
    async fn bound_volume(
        &self,
        pod: &Pod,
        name: &str,
        behind: Behind,
    ) -> Result<Result<Arc<Value>, String>, ClientError> {
        let claims = self.client.namespaced("", "v1", "persistentvolumeclaims", pod.namespace());
        let claim = claims.fetch_optional(name).await?;
        let volume = match claims::bound(pod, name, behind, claim.as_ref()) {
            Ok(volume) => volume,
            Err(why) => return Ok(Err(why)),
        };
        let found = self.client.all("", "v1", "persistentvolumes").fetch_optional(volume).await?;
        let belongs = claims::belongs(found.as_ref(), volume, claim.as_ref().unwrap_or(&Value::Null));
        Ok(belongs.map(|()| Arc::new(found.unwrap_or_default())))
    }

    async fn all(
        &self,
        pod: &Pod,
        resource: &str,
        names: std::collections::BTreeSet<String>,
    ) -> Result<BTreeMap<String, Object>, ClientError> {
        let api = self.client.namespaced("", "v1", resource, pod.namespace());
        let mut found = BTreeMap::new();
        for name in names {
            let object = match api.fetch_optional(&name).await? {
                Some(tree) => Object::Found(Arc::new(tree)),
                None => Object::Missing,
            };
            found.insert(name, object);
        }
        Ok(found)
    }

    /// A token bound to the pod; renewed when 80 % of its life have passed.
    async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, ClientError> {
        let key = (pod.uid().to_owned(), audience.to_owned(), seconds);
        let now = self.clock.now();
        if let Some(issued) = self.tokens.lock().get(&key).filter(|issued| issued.renew_at > now) {
            return Ok(issued.token.clone());
        }
        let mut spec = Map::new();
        spec.insert("expirationSeconds", seconds);
        spec.insert("audiences", if audience.is_empty() { Vec::new() } else { vec![audience] });
        spec.insert(
            "boundObjectRef",
            object! { "apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid() },
        );
        let request = object! { "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec };
        let account = match pod.spec("serviceAccountName") {
            "" => "default",
            said => said,
        };
        let accounts = self.client.namespaced("", "v1", "serviceaccounts", pod.namespace());
        let answer = accounts.create_subresource(account, "token", &request, &WriteOptions::default()).await?;
        let token = answer.str_at(&["status", "token"]).to_owned();
        let granted = answer.at(&["spec", "expirationSeconds"]).and_then(Value::as_int).unwrap_or(seconds);
        let life = Duration::from_secs(u64::try_from(granted).unwrap_or(600));
        let renew_at = now + life.mul_f64(0.8);
        self.tokens.lock().insert(key, IssuedToken { token: token.clone(), renew_at });
        Ok(token)
    }

    /// Forgets a pod's tokens.
    pub(crate) fn forget_tokens(&self, uid: &str) {
        self.tokens.lock().retain(|(owner, ..), _| owner != uid);
    }
}
