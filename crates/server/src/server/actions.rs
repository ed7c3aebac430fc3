//! The actions that belong to authentication and authorization, as the registry calls them.

use crate::authn::Authenticator;
use crate::authn::review::{self_subject_review, token_review};
use crate::authz::{Authorizer, rbac::Rbac, review};
use crate::registry::action::{Action, ActionFuture, Actions, Call};
use skiff_base::clock::SharedClock;
use skiff_machinery::ApiError;
use std::sync::Arc;

/// Who answers reviews and makes tokens.
pub(super) struct Deciders {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) rbac: Arc<Rbac>,
    pub(super) clock: SharedClock,
}

/// Which action it is.
#[derive(Clone, Copy)]
enum Kind {
    TokenReview,
    SelfSubjectReview,
    SubjectAccessReview,
    LocalSubjectAccessReview,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
    Token,
}

struct Decide {
    kind: Kind,
    deciders: Arc<Deciders>,
}

impl Action for Decide {
    fn act<'a>(&'a self, call: Call<'a>) -> ActionFuture<'a> {
        Box::pin(async move {
            let deciders = &self.deciders;
            let context = &call.request.context;
            match self.kind {
                Kind::TokenReview => token_review(&deciders.authenticator, call.object).await,
                Kind::SelfSubjectReview => Ok(self_subject_review(&context.user, call.object)),
                Kind::SubjectAccessReview => review::subject_access_review(&*deciders.authorizer, call.object).await,
                Kind::LocalSubjectAccessReview => {
                    review::local_subject_access_review(&*deciders.authorizer, &context.info.namespace, call.object)
                        .await
                }
                Kind::SelfSubjectAccessReview => {
                    review::self_subject_access_review(&*deciders.authorizer, &context.user, call.object).await
                }
                Kind::SelfSubjectRulesReview => {
                    review::self_subject_rules_review(&deciders.rbac, &context.user, call.object)
                }
                Kind::Token => {
                    let accounts = deciders
                        .authenticator
                        .service_accounts()
                        .ok_or_else(|| ApiError::internal("this server has no key for service account tokens"))?;
                    let info = &context.info;
                    let now = deciders.clock.wall();
                    let registry = &**call.registry;
                    accounts
                        .create_token(registry, &info.namespace, &info.name, call.object, context.dry_run, now)
                        .await
                }
            }
        })
    }
}

/// All of them, by the names in the table of kinds.
pub(super) fn actions(deciders: Arc<Deciders>) -> Actions {
    let mut actions = Actions::default();
    for (name, kind) in [
        ("tokenreview", Kind::TokenReview),
        ("selfsubjectreview", Kind::SelfSubjectReview),
        ("subjectaccessreview", Kind::SubjectAccessReview),
        ("localsubjectaccessreview", Kind::LocalSubjectAccessReview),
        ("selfsubjectaccessreview", Kind::SelfSubjectAccessReview),
        ("selfsubjectrulesreview", Kind::SelfSubjectRulesReview),
        ("token", Kind::Token),
    ] {
        actions.act.insert(name, Arc::new(Decide { kind, deciders: Arc::clone(&deciders) }));
    }
    actions
}
