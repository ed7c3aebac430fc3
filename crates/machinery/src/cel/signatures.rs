//! What every function takes and gives, as text that reads like a declaration.
//!
//! `f(int) bool` is a function, `string.f(int) bool` a method. `A` and `B` are any types. The same table says what exists:
//! a call that fits no line does not compile. Which line a call means at run time is decided by its values
//! (`functions/`).

use super::types::Ty;
use std::collections::HashMap;
use std::rc::Rc;

const TABLE: &str = "
!_(bool) bool
-_(int) int
-_(double) double
_==_(A, A) bool
_!=_(A, A) bool
_<_(bool, bool) bool
_<_(N, N) bool
_<_(string, string) bool
_<_(bytes, bytes) bool
_<_(timestamp, timestamp) bool
_<_(duration, duration) bool
_+_(int, int) int
_+_(uint, uint) uint
_+_(double, double) double
_+_(string, string) string
_+_(bytes, bytes) bytes
_+_(list<A>, list<A>) list<A>
_+_(duration, duration) duration
_+_(timestamp, duration) timestamp
_+_(duration, timestamp) timestamp
_-_(int, int) int
_-_(uint, uint) uint
_-_(double, double) double
_-_(duration, duration) duration
_-_(timestamp, timestamp) duration
_-_(timestamp, duration) timestamp
_*_(int, int) int
_*_(uint, uint) uint
_*_(double, double) double
_/_(int, int) int
_/_(uint, uint) uint
_/_(double, double) double
_%_(int, int) int
_%_(uint, uint) uint
@in(A, list<A>) bool
@in(A, map<A, B>) bool
size(string) int
size(bytes) int
size(list<A>) int
size(map<A, B>) int
string.size() int
bytes.size() int
list<A>.size() int
map<A, B>.size() int
dyn(A) dyn
type(A) type
bool(bool) bool
bool(string) bool
int(int) int
int(uint) int
int(double) int
int(string) int
int(timestamp) int
int(duration) int
uint(uint) uint
uint(int) uint
uint(double) uint
uint(string) uint
double(double) double
double(int) double
double(uint) double
double(string) double
string(string) string
string(bool) string
string(int) string
string(uint) string
string(double) string
string(bytes) string
string(timestamp) string
string(duration) string
string(quantity) string
string(ip) string
string(cidr) string
string(url) string
string(semver) string
bytes(bytes) bytes
bytes(string) bytes
duration(string) duration
duration(duration) duration
timestamp(string) timestamp
timestamp(int) timestamp
timestamp(timestamp) timestamp
string.contains(string) bool
string.startsWith(string) bool
string.endsWith(string) bool
string.matches(string) bool
matches(string, string) bool
string.charAt(int) string
string.indexOf(string) int
string.indexOf(string, int) int
string.lastIndexOf(string) int
string.lastIndexOf(string, int) int
string.lowerAscii() string
string.upperAscii() string
string.replace(string, string) string
string.replace(string, string, int) string
string.split(string) list<string>
string.split(string, int) list<string>
string.substring(int) string
string.substring(int, int) string
string.trim() string
string.reverse() string
string.format(list<dyn>) string
strings.quote(string) string
list<string>.join() string
list<string>.join(string) string
string.find(string) string
string.findAll(string) list<string>
string.findAll(string, int) list<string>
list<A>.isSorted() bool
list<int>.sum() int
list<uint>.sum() uint
list<double>.sum() double
list<duration>.sum() duration
list<A>.min() A
list<A>.max() A
list<A>.indexOf(A) int
list<A>.lastIndexOf(A) int
sets.contains(list<A>, list<A>) bool
sets.equivalent(list<A>, list<A>) bool
sets.intersects(list<A>, list<A>) bool
timestamp.getFullYear() int
timestamp.getFullYear(string) int
timestamp.getMonth() int
timestamp.getMonth(string) int
timestamp.getDate() int
timestamp.getDate(string) int
timestamp.getDayOfMonth() int
timestamp.getDayOfMonth(string) int
timestamp.getDayOfWeek() int
timestamp.getDayOfWeek(string) int
timestamp.getDayOfYear() int
timestamp.getDayOfYear(string) int
timestamp.getHours() int
timestamp.getHours(string) int
timestamp.getMinutes() int
timestamp.getMinutes(string) int
timestamp.getSeconds() int
timestamp.getSeconds(string) int
timestamp.getMilliseconds() int
timestamp.getMilliseconds(string) int
duration.getHours() int
duration.getMinutes() int
duration.getSeconds() int
duration.getMilliseconds() int
url(string) url
isURL(string) bool
url.getScheme() string
url.getHost() string
url.getHostname() string
url.getPort() string
url.getEscapedPath() string
url.getQuery() map<string, list<string>>
quantity(string) quantity
isQuantity(string) bool
quantity.sign() int
quantity.isInteger() bool
quantity.asInteger() int
quantity.asApproximateFloat() double
quantity.add(quantity) quantity
quantity.add(int) quantity
quantity.sub(quantity) quantity
quantity.sub(int) quantity
quantity.isGreaterThan(quantity) bool
quantity.isLessThan(quantity) bool
quantity.compareTo(quantity) int
ip(string) ip
isIP(string) bool
ip.isCanonical(string) bool
ip.family() int
ip.isUnspecified() bool
ip.isLoopback() bool
ip.isLinkLocalMulticast() bool
ip.isLinkLocalUnicast() bool
ip.isGlobalUnicast() bool
cidr(string) cidr
isCIDR(string) bool
cidr.containsIP(ip) bool
cidr.containsIP(string) bool
cidr.containsCIDR(cidr) bool
cidr.containsCIDR(string) bool
cidr.ip() ip
cidr.masked() cidr
cidr.prefixLength() int
semver(string) semver
semver(string, bool) semver
isSemver(string) bool
isSemver(string, bool) bool
semver.major() int
semver.minor() int
semver.patch() int
semver.isGreaterThan(semver) bool
semver.isLessThan(semver) bool
semver.compareTo(semver) int
format.named(string) optional<namedformat>
namedformat.validate(string) optional<list<string>>
optional.of(A) optional<A>
optional.none() optional<dyn>
optional.ofNonZeroValue(A) optional<A>
optional<A>.hasValue() bool
optional<A>.value() A
optional<A>.or(optional<A>) optional<A>
optional<A>.orValue(A) A
jsonpatch.escapeKey(string) string
authorizer.serviceAccount(string, string) authorizer
authorizer.path(string) pathcheck
authorizer.group(string) groupcheck
groupcheck.resource(string) resourcecheck
resourcecheck.subresource(string) resourcecheck
resourcecheck.namespace(string) resourcecheck
resourcecheck.name(string) resourcecheck
resourcecheck.fieldSelector(string) resourcecheck
resourcecheck.labelSelector(string) resourcecheck
pathcheck.check(string) decision
resourcecheck.check(string) decision
decision.allowed() bool
decision.reason() string
decision.errored() bool
decision.error() string
";

/// The formats of `format.NAME()`.
pub(super) const FORMATS: [&str; 15] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
    "ipv4",
    "ipv6",
];

/// One way to call a function.
pub(super) struct Overload {
    pub(super) method: bool,
    pub(super) params: Vec<Ty<'static>>,
    pub(super) result: Ty<'static>,
}

/// Every function by name. Made for one compilation: definitions are rare, and most processes never see a rule.
pub(super) struct Signatures(HashMap<&'static str, Vec<Overload>>);

impl Signatures {
    pub(super) fn new() -> Self {
        let mut all: HashMap<&'static str, Vec<Overload>> = HashMap::new();
        for line in TABLE.lines().filter(|line| !line.is_empty()) {
            let (name, overloads) = overloads(line);
            all.entry(name).or_default().extend(overloads);
        }
        for (name, like) in [("_<=_", "_<_"), ("_>_", "_<_"), ("_>=_", "_<_")] {
            let copies: Vec<Overload> = all[like].iter().map(Overload::copy).collect();
            all.insert(name, copies);
        }
        for name in FORMATS {
            let name: &'static str = name;
            let overload = Overload { method: false, params: Vec::new(), result: Ty::Simple("namedformat") };
            all.insert(name, vec![overload]);
        }
        Self(all)
    }

    pub(super) fn of(&self, name: &str) -> Option<&[Overload]> {
        let name = name.strip_prefix("format.").filter(|name| FORMATS.contains(name)).unwrap_or(name);
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Overload {
    fn copy(&self) -> Self {
        Self { method: self.method, params: self.params.clone(), result: self.result.clone() }
    }
}

/// Numbers of different types can be compared (not `==`).
const NUMBERS: [&str; 3] = ["int", "uint", "double"];

fn overloads(line: &'static str) -> (&'static str, Vec<Overload>) {
    let open = line.find('(').expect("a signature has parameters");
    let close = line.rfind(')').expect("a signature has parameters");
    let (head, inside, result) = (&line[..open], &line[open + 1..close], line[close + 1..].trim());
    let mut params = Vec::new();
    // A method has its type before the last dot; functions of a namespace have a dot as well.
    let (name, method) = match head.rsplit_once('.') {
        Some((namespace, _)) if ["sets", "strings", "optional", "format", "jsonpatch"].contains(&namespace) => {
            (head, false)
        }
        // `ip` is a namespace and a type.
        Some(("ip", "isCanonical")) => (head, false),
        Some((receiver, name)) => {
            params.push(ty(receiver));
            (name, true)
        }
        None => (head, false),
    };
    params.extend(split(inside).into_iter().map(ty));
    let result = ty(result);
    if matches!(params.first(), Some(Ty::Simple("N"))) {
        let pairs = NUMBERS.iter().flat_map(|left| NUMBERS.iter().map(move |right| (*left, *right)));
        let each = |(left, right)| {
            let params = vec![Ty::Simple(left), Ty::Simple(right)];
            Overload { method, params, result: result.clone() }
        };
        return (name, pairs.map(each).collect());
    }
    (name, vec![Overload { method, params, result }])
}

/// At commas that are not within brackets.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, symbol) in text.char_indices() {
        match symbol {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        out.push(text[start..].trim());
    }
    out
}

fn ty(text: &'static str) -> Ty<'static> {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        let mut inner = split(inner).into_iter().map(|text| Rc::new(ty(text)));
        let mut next = || inner.next().expect("the table is well formed");
        return match outer {
            "list" => Ty::List(next()),
            "optional" => Ty::Optional(next()),
            _ => Ty::Map(next(), next()),
        };
    }
    match text {
        "A" => Ty::Param(0),
        "B" => Ty::Param(1),
        "dyn" => Ty::Dyn,
        other => Ty::Simple(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let all = Signatures::new();
        let text = |name: &str| -> Vec<String> {
            let show = |overload: &Overload| {
                let params: Vec<String> = overload.params.iter().map(ToString::to_string).collect();
                format!("{} {} {}", overload.method, params.join(","), overload.result)
            };
            all.of(name).unwrap_or_default().iter().map(show).collect()
        };
        assert_eq!(text("join"), ["true list(string) string", "true list(string),string string"]);
        assert_eq!(text("getQuery"), ["true url map(string, list(string))"]);
        assert_eq!(text("sets.contains"), ["false list(%0),list(%0) bool"]);
        assert_eq!(text("ip"), ["false string ip", "true cidr ip"]);
        assert_eq!(text("ip.isCanonical"), ["false string bool"]);
        assert_eq!(text("format.uuid"), ["false  namedformat"]);
        assert_eq!(text("_<=_").len(), 14);
        assert!(all.of("nothing").is_none());
    }
}
