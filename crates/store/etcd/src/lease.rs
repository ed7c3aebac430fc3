//! The Lease service.

use crate::proto::etcdserverpb as pb;
use crate::{Etcd, wire};
use skiff_store::StoreError;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::lease_server::Lease for Etcd {
    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Answer<pb::LeaseGrantResponse> {
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        let lease = self.store.lease_grant(id, ttl).await.map_err(wire::status)?;
        let header = self.newest_header().await?;
        let (id, ttl) = (lease.id, lease.granted_ttl);
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Answer<pb::LeaseRevokeResponse> {
        self.store.lease_revoke(request.into_inner().id).await.map_err(wire::status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.newest_header().await? }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let etcd = self.clone();
        let answers = request.into_inner().then(move |request| {
            let etcd = etcd.clone();
            async move {
                let id = request?.id;
                // A lease that is gone is no error of the stream: its time to live is 0.
                let ttl = match etcd.store.lease_keep_alive(id).await {
                    Ok(lease) => lease.ttl,
                    Err(StoreError::LeaseNotFound) => 0,
                    Err(error) => return Err(wire::status(error)),
                };
                Ok(pb::LeaseKeepAliveResponse { header: etcd.newest_header().await?, id, ttl })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let header = self.newest_header().await?;
        let (ttl, granted_ttl, keys) = match self.store.lease_time_to_live(id, keys).await {
            Ok((lease, keys)) => (lease.ttl, lease.granted_ttl, keys),
            Err(StoreError::LeaseNotFound) => (-1, 0, Vec::new()),
            Err(error) => return Err(wire::status(error)),
        };
        Ok(Response::new(pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys }))
    }

    async fn lease_leases(&self, _request: Request<pb::LeaseLeasesRequest>) -> Answer<pb::LeaseLeasesResponse> {
        let leases = self.store.leases().await.map_err(wire::status)?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.newest_header().await?, leases }))
    }
}
