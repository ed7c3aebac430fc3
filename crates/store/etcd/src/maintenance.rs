//! The Maintenance and Cluster services, as far as one member has something to say.

use crate::proto::etcdserverpb as pb;
use crate::{Etcd, wire};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The version of the protocol that is spoken. Clients read features from it: 3.6 has progress requests that work.
const VERSION: &str = "3.6.0";

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Etcd {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        let request = request.into_inner();
        let status = self.store.status().await.map_err(wire::status)?;
        let raised = status
            .alarm
            .map(|_| pb::AlarmMember { member_id: self.identity.member_id, alarm: pb::AlarmType::Nospace.into() });
        match request.action() {
            pb::alarm_request::AlarmAction::Get => {}
            // The alarm ends by itself when there is space.
            pb::alarm_request::AlarmAction::Deactivate if raised.is_none() => {}
            pb::alarm_request::AlarmAction::Deactivate => {
                return Err(Status::failed_precondition("the alarm ends by itself when there is space"));
            }
            pb::alarm_request::AlarmAction::Activate => {
                return Err(Status::unimplemented("an alarm cannot be raised by hand"));
            }
        }
        let header = self.header(status.revision);
        Ok(Response::new(pb::AlarmResponse { header, alarms: raised.into_iter().collect() }))
    }

    async fn status(&self, _request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let status = self.store.status().await.map_err(wire::status)?;
        let index = status.revision.unsigned_abs();
        Ok(Response::new(pb::StatusResponse {
            header: self.header(status.revision),
            version: VERSION.into(),
            db_size: i64::try_from(status.size_on_disk).unwrap_or(i64::MAX),
            leader: self.identity.member_id,
            raft_index: index,
            raft_term: 1,
            raft_applied_index: index,
            errors: status.alarm.into_iter().collect(),
            db_size_in_use: i64::try_from(status.size_in_use).unwrap_or(i64::MAX),
            is_learner: false,
            storage_version: String::new(),
            db_size_quota: 0,
        }))
    }

    /// There is never anything to defragment.
    async fn defragment(&self, _request: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        Ok(Response::new(pb::DefragmentResponse { header: self.newest_header().await? }))
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Etcd {
    async fn member_list(&self, _request: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        let member = pb::Member {
            id: self.identity.member_id,
            name: self.identity.name.clone(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: self.identity.client_urls.clone(),
            is_learner: false,
        };
        Ok(Response::new(pb::MemberListResponse { header: self.newest_header().await?, members: vec![member] }))
    }
}
