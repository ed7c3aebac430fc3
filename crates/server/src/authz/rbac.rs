//! RBAC over the registry's caches (`plugin/pkg/auth/authorizer/rbac`).
//!
//! Decisions read an index by subject: who has a binding is found by two hash look-ups, and only those bindings' rules
//! are tried. The index is rebuilt when one of the four resources has changed, reusing every role that has not.

use super::rule::Rule;
use super::{Decide, Decision, Question};
use crate::admission::Reader;
use crate::request::UserInfo;
use arc_swap::ArcSwap;
use skiff_machinery::error::quote;
use skiff_machinery::{GroupResource, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// `rbac.authorization.k8s.io`.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of one role.
type Rules = Arc<[Rule]>;

/// A binding as its subjects see it.
struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role_kind: RoleKind,
    role_name: String,
    /// `None`: the role does not exist.
    rules: Option<Rules>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RoleKind {
    Cluster,
    Namespaced,
}
impl RoleKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "ClusterRole",
            Self::Namespaced => "Role",
        }
    }
    fn resource(self) -> &'static str {
        match self {
            Self::Cluster => "clusterroles",
            Self::Namespaced => "roles",
        }
    }
}

/// Bindings of one scope, by subject.
#[derive(Default)]
struct Subjects {
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
}

impl Subjects {
    fn add(&mut self, subjects: &[Value], namespace: &str, binding: &Arc<Binding>) {
        for subject in subjects {
            let name = subject.str_at(&["name"]);
            let (list, key) = match subject.str_at(&["kind"]) {
                "User" => (&mut self.users, name.to_owned()),
                "Group" => (&mut self.groups, name.to_owned()),
                "ServiceAccount" => {
                    let own = subject.str_at(&["namespace"]);
                    let namespace = if own.is_empty() { namespace } else { own };
                    (&mut self.users, service_account_user(namespace, name))
                }
                _ => continue,
            };
            list.entry(key).or_default().push(Arc::clone(binding));
        }
    }

    /// Visits the user's bindings until `visit` says that it has seen enough.
    fn visit<'a>(&'a self, user: &'a UserInfo, visit: &mut dyn FnMut(&'a Binding, Subject<'a>) -> bool) -> bool {
        let bindings =
            |list: &'a HashMap<String, Vec<Arc<Binding>>>, key: &str| list.get(key).map_or(&[][..], Vec::as_slice);
        for binding in bindings(&self.users, &user.name) {
            if visit(binding, Subject::User(&user.name)) {
                return true;
            }
        }
        for group in &user.groups {
            for binding in bindings(&self.groups, group) {
                if visit(binding, Subject::Group(group)) {
                    return true;
                }
            }
        }
        false
    }
}

#[derive(Clone, Copy)]
enum Subject<'a> {
    User(&'a str),
    Group(&'a str),
}

/// The user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

#[derive(Default)]
struct Index {
    generations: [u64; 4],
    cluster: Subjects,
    namespaces: HashMap<String, Subjects>,
    /// Parsed roles with the resource version that they came from. (The objects themselves are not held: they are large,
    /// and the registry drops trees that nobody uses.)
    roles: HashMap<(RoleKind, String, String), (String, Rules)>,
}

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    resources: [GroupResource; 4],
    index: ArcSwap<Index>,
    rebuilding: parking_lot::Mutex<()>,
}

const CLUSTER_ROLES: usize = 0;
const ROLES: usize = 1;
const CLUSTER_ROLE_BINDINGS: usize = 2;
const ROLE_BINDINGS: usize = 3;

impl Rbac {
    /// Over the registry's caches.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        let resources = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"]
            .map(|resource| GroupResource::new(GROUP, resource));
        // No generation is this one, so that the first question builds the index.
        let empty = Index { generations: [u64::MAX; 4], ..Index::default() };
        Self { reader, resources, index: ArcSwap::from_pointee(empty), rebuilding: parking_lot::Mutex::new(()) }
    }

    fn generations(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|index| self.reader.generation(&self.resources[index]))
    }

    /// The index, not older than the call.
    fn current(&self) -> Arc<Index> {
        let current = self.index.load_full();
        if current.generations == self.generations() {
            return current;
        }
        let _one_rebuilds = self.rebuilding.lock();
        let current = self.index.load_full();
        // Read before the lists: what changes meanwhile is seen by the next question.
        let generations = self.generations();
        if current.generations == generations {
            return current;
        }
        let next = Arc::new(self.build(&current, generations));
        self.index.store(Arc::clone(&next));
        next
    }

    fn build(&self, old: &Index, generations: [u64; 4]) -> Index {
        let mut index = Index { generations, ..Index::default() };
        for (which, kind) in [(CLUSTER_ROLES, RoleKind::Cluster), (ROLES, RoleKind::Namespaced)] {
            for role in self.reader.list(&self.resources[which], None) {
                let namespace = role.str_at(&["metadata", "namespace"]).to_owned();
                let key = (kind, namespace, role.str_at(&["metadata", "name"]).to_owned());
                let version = role.str_at(&["metadata", "resourceVersion"]);
                let rules = match old.roles.get(&key) {
                    Some((known, rules)) if !version.is_empty() && known == version => Arc::clone(rules),
                    _ => Rule::all(&role).into(),
                };
                index.roles.insert(key, (version.to_owned(), rules));
            }
        }
        for which in [CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS] {
            for object in self.reader.list(&self.resources[which], None) {
                let namespace = object.str_at(&["metadata", "namespace"]);
                let role_name = object.str_at(&["roleRef", "name"]).to_owned();
                let role_kind = match object.str_at(&["roleRef", "kind"]) {
                    "Role" => RoleKind::Namespaced,
                    _ => RoleKind::Cluster,
                };
                let role_namespace = if role_kind == RoleKind::Cluster { "" } else { namespace };
                let found = index.roles.get(&(role_kind, role_namespace.to_owned(), role_name.clone()));
                let binding = Arc::new(Binding {
                    namespace: namespace.to_owned(),
                    name: object.str_at(&["metadata", "name"]).to_owned(),
                    role_kind,
                    role_name,
                    rules: found.map(|(_, rules)| Arc::clone(rules)),
                });
                let scope = if which == CLUSTER_ROLE_BINDINGS {
                    &mut index.cluster
                } else {
                    index.namespaces.entry(namespace.to_owned()).or_default()
                };
                scope.add(object.items_at(&["subjects"]), namespace, &binding);
            }
        }
        index
    }

    /// Every rule that a user has in a namespace (`""`: cluster-wide ones only), and which roles of theirs are missing
    /// (`RulesFor`).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let index = self.current();
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        index.visit(user, namespace, &mut |binding, _| {
            match &binding.rules {
                Some(found) => rules.extend(found.iter().cloned()),
                None => errors.push(binding.missing()),
            }
            false
        });
        (rules, errors)
    }

    /// The rules of a role that a binding names; `None` when there is no such role.
    pub fn role_rules(&self, role_kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let (kind, namespace) =
            if role_kind == "Role" { (RoleKind::Namespaced, namespace) } else { (RoleKind::Cluster, "") };
        let index = self.current();
        index.roles.get(&(kind, namespace.to_owned(), name.to_owned())).map(|(_, rules)| rules.to_vec())
    }
}

impl Index {
    fn visit<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&'a Binding, Subject<'a>) -> bool,
    ) -> bool {
        if self.cluster.visit(user, visit) {
            return true;
        }
        if namespace.is_empty() {
            return false;
        }
        self.namespaces.get(namespace).is_some_and(|subjects| subjects.visit(user, visit))
    }
}

impl Binding {
    fn missing(&self) -> String {
        format!("{}.{GROUP} {} not found", self.role_kind.resource(), quote(&self.role_name))
    }
    fn allowed(&self, subject: Subject<'_>) -> String {
        let (binding, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", quote(&self.name))
        } else {
            ("RoleBinding", quote(&format!("{}/{}", self.name, self.namespace)))
        };
        let role = format!("{} {}", self.role_kind.as_str(), quote(&self.role_name));
        let subject = match subject {
            Subject::User(name) => {
                match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
                    Some((namespace, name)) => format!("ServiceAccount {}", quote(&format!("{name}/{namespace}"))),
                    None => format!("User {}", quote(name)),
                }
            }
            Subject::Group(name) => format!("Group {}", quote(name)),
        };
        format!("RBAC: allowed by {binding} {name} of {role} to {subject}")
    }
}

impl Decide for Rbac {
    fn decide(&self, question: &Question<'_>) -> Decision {
        let index = self.current();
        let mut allowed = None;
        let mut errors = Vec::new();
        index.visit(question.user, question.namespace, &mut |binding, subject| {
            match &binding.rules {
                None => errors.push(binding.missing()),
                Some(rules) if rules.iter().any(|rule| rule.allows(question)) => {
                    allowed = Some(binding.allowed(subject));
                }
                Some(_) => (),
            }
            allowed.is_some()
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", list_errors(&errors))),
        }
    }
}

/// Go's aggregate of errors.
pub(crate) fn list_errors(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::authz::testing::Fake;
    use skiff_machinery::{list, object};

    fn role(kind: &str, namespace: &str, name: &str, verbs: &[&str], resources: &[&str]) -> Value {
        let own = |list: &[&str]| Value::from(list.iter().map(|text| Value::from(*text)).collect::<Vec<_>>());
        object! {
            "kind": kind,
            "metadata": object! { "name": name, "namespace": namespace },
            "rules": list![object! { "verbs": own(verbs), "apiGroups": list![""], "resources": own(resources) }]
        }
    }
    fn binding(namespace: &str, name: &str, kind: &str, role: &str, subject: Value) -> Value {
        object! {
            "metadata": object! { "name": name, "namespace": namespace },
            "roleRef": object! { "kind": kind, "name": role },
            "subjects": list![subject]
        }
    }

    #[test]
    fn decides_by_bindings_and_follows_changes() {
        let fake = Arc::new(Fake::default());
        let put = |resource: &str, object: Value| fake.put(&GroupResource::new(GROUP, resource), object);
        put("clusterroles", role("ClusterRole", "", "view", &["get", "list"], &["pods", "pods/log"]));
        put("roles", role("Role", "a", "edit", &["*"], &["*"]));
        put(
            "clusterrolebindings",
            binding("", "viewers", "ClusterRole", "view", object! { "kind": "Group", "name": "dev" }),
        );
        put(
            "rolebindings",
            binding("a", "editors", "Role", "edit", object! { "kind": "ServiceAccount", "name": "bot" }),
        );
        put("rolebindings", binding("b", "lost", "Role", "gone", object! { "kind": "User", "name": "jane" }));
        let rbac = Rbac::new(Arc::clone(&fake) as Arc<dyn Reader>);
        let jane = UserInfo { name: "jane".into(), groups: vec!["dev".into()], ..UserInfo::default() };
        let bot = UserInfo { name: service_account_user("a", "bot"), ..UserInfo::default() };
        let pods = GroupResource::new("", "pods");
        assert_eq!(
            rbac.decide(&Question::on(&jane, "get", &pods, "a", "x")),
            Decision::Allow(
                "RBAC: allowed by ClusterRoleBinding \"viewers\" of ClusterRole \"view\" to Group \"dev\"".into()
            )
        );
        assert!(rbac.decide(&Question::on(&jane, "get", &pods, "", "x").with_subresource("log")).is_allowed());
        assert!(!rbac.decide(&Question::on(&jane, "get", &pods, "", "x").with_subresource("exec")).is_allowed());
        assert!(!rbac.decide(&Question::on(&jane, "delete", &pods, "a", "x")).is_allowed());
        assert_eq!(
            rbac.decide(&Question::on(&jane, "delete", &pods, "b", "x")),
            Decision::NoOpinion("RBAC: roles.rbac.authorization.k8s.io \"gone\" not found".into())
        );
        assert_eq!(
            rbac.decide(&Question::on(&bot, "delete", &pods, "a", "x")),
            Decision::Allow(
                "RBAC: allowed by RoleBinding \"editors/a\" of Role \"edit\" to ServiceAccount \"bot/a\"".into()
            )
        );
        assert!(!rbac.decide(&Question::on(&bot, "delete", &pods, "b", "x")).is_allowed());
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            assert!(rbac.decide(&Question::on(&jane, "get", &pods, "a", "x")).is_allowed());
        }
        let each = started.elapsed() / 1000;
        assert!(each < std::time::Duration::from_micros(100), "a decision takes {each:?}, unoptimised");
        put("roles", role("Role", "b", "gone", &["delete"], &["pods"]));
        assert!(rbac.decide(&Question::on(&jane, "delete", &pods, "b", "x")).is_allowed(), "the role is there now");
    }
}
