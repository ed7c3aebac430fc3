//! The rows: what each is called, what it is about and what it has to reach. Data; nothing here measures.

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests, events or pods in a second.
    PerSecond,
    /// Microseconds of the server's CPU for each of them.
    Cpu,
    /// Milliseconds, the middle one of all.
    Median,
    /// Milliseconds that 99 of 100 stay below.
    P99,
    /// Seconds until it is done.
    Seconds,
    /// Resident memory of the server's processes.
    Mebibytes,
}

impl Unit {
    /// Name in the JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "perSecond",
            Self::Cpu => "cpuMicroseconds",
            Self::Median => "medianMilliseconds",
            Self::P99 => "p99Milliseconds",
            Self::Seconds => "seconds",
            Self::Mebibytes => "mebibytes",
        }
    }

    /// Whether more is better.
    fn more_is_better(self) -> bool {
        self == Self::PerSecond
    }

    /// A value as people read it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(value)),
            Self::Cpu if value >= 1000.0 => format!("{:.1} ms CPU", value / 1000.0),
            Self::Cpu => format!("{value:.0} us CPU"),
            Self::Median => format!("p50 {value:.1} ms"),
            Self::P99 => format!("p99 {value:.1} ms"),
            Self::Seconds if value < 1.0 => format!("{:.0} ms", value * 1000.0),
            Self::Seconds => format!("{value:.2} s"),
            Self::Mebibytes => format!("{value:.0} MiB"),
        }
    }
}

fn thousands(value: f64) -> String {
    if value < 1000.0 {
        return format!("{value:.0}");
    }
    let whole = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What a figure has to be: at least so much per second, at most so much of anything else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Of what.
    pub unit: Unit,
    /// How much.
    pub value: f64,
}

impl Target {
    /// Whether a measured value reaches it.
    pub fn met(&self, value: f64) -> bool {
        if self.unit.more_is_better() { value >= self.value } else { value <= self.value }
    }
    /// As people read it.
    pub fn show(&self) -> String {
        let sign = if self.unit.more_is_better() { ">=" } else { "<=" };
        format!("{sign} {}", self.unit.show(self.value))
    }
}

/// One measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Of what.
    pub unit: Unit,
    /// How much.
    pub value: f64,
}

/// What a row needs to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A server of its own, whose start is measured.
    Start,
    /// Any API server.
    Api,
    /// Any API server, and a scheduler that is started when the pods are there.
    Scheduler,
    /// A server of its own with a node: root.
    StartOfNode,
    /// A cluster with a node; for one of its own: root.
    Node,
}

/// What is done for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the rows say what each is")]
pub enum Measure {
    Readyz,
    ServiceAccount,
    Idle,
    Requests(Requests),
    Loaded,
    Watch,
    Scheduling,
    NodeReady,
    IdleNode,
    PodAlone,
    PodsTogether,
    PodsGone,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the rows say what each is")]
pub enum Requests {
    CreateConfigMapAlone,
    CreateConfigMap,
    CreatePod,
    GetPod,
    PatchPod,
    ListJson,
    ListProtobuf,
    ListConsistent,
    ListPages,
}

impl Measure {
    /// What it takes.
    pub fn needs(self) -> Needs {
        match self {
            Self::Readyz | Self::ServiceAccount | Self::Idle => Needs::Start,
            Self::Requests(_) | Self::Loaded | Self::Watch => Needs::Api,
            Self::Scheduling => Needs::Scheduler,
            Self::NodeReady | Self::IdleNode => Needs::StartOfNode,
            Self::PodAlone | Self::PodsTogether | Self::PodsGone => Needs::Node,
        }
    }
}

/// A row.
#[derive(Debug)]
pub struct Row {
    /// Its name for `--rows`.
    pub name: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// How.
    pub measure: Measure,
    /// What it has to reach.
    pub targets: &'static [Target],
}

const fn target(unit: Unit, value: f64) -> Target {
    Target { unit, value }
}

/// All rows, in the order in which they are measured: a row may stand on what the one before left.
pub const ROWS: &[Row] = &[
    Row {
        name: "readyz",
        what: "exec to /readyz (store and API server, empty data)",
        measure: Measure::Readyz,
        targets: &[target(Unit::Seconds, 0.3)],
    },
    Row {
        name: "service-account",
        what: "exec to the first default ServiceAccount",
        measure: Measure::ServiceAccount,
        targets: &[target(Unit::Seconds, 0.7)],
    },
    Row {
        name: "idle",
        what: "RSS of an idle control plane",
        measure: Measure::Idle,
        targets: &[target(Unit::Mebibytes, 64.0)],
    },
    Row {
        name: "create-configmap-1",
        what: "create ConfigMap 1 KiB, 1 client",
        measure: Measure::Requests(Requests::CreateConfigMapAlone),
        targets: &[target(Unit::PerSecond, 1500.0), target(Unit::Cpu, 200.0)],
    },
    Row {
        name: "create-configmap",
        what: "create ConfigMap 1 KiB, 32 in flight",
        measure: Measure::Requests(Requests::CreateConfigMap),
        targets: &[target(Unit::PerSecond, 9000.0), target(Unit::Cpu, 120.0)],
    },
    Row {
        name: "create-pod",
        what: "create Pod, 32 in flight",
        measure: Measure::Requests(Requests::CreatePod),
        targets: &[target(Unit::PerSecond, 5500.0), target(Unit::Cpu, 200.0)],
    },
    Row {
        name: "get-pod",
        what: "GET Pod, 32 in flight",
        measure: Measure::Requests(Requests::GetPod),
        targets: &[target(Unit::PerSecond, 20_000.0), target(Unit::Cpu, 50.0)],
    },
    Row {
        name: "patch-pod",
        what: "PATCH Pod without effect, 32 in flight",
        measure: Measure::Requests(Requests::PatchPod),
        targets: &[target(Unit::PerSecond, 6000.0), target(Unit::Cpu, 200.0)],
    },
    Row {
        name: "list-json",
        what: "LIST 2,000 pods JSON from cache",
        measure: Measure::Requests(Requests::ListJson),
        targets: &[target(Unit::PerSecond, 80.0), target(Unit::Cpu, 10_000.0)],
    },
    Row {
        name: "list-protobuf",
        what: "LIST 2,000 pods protobuf from cache",
        measure: Measure::Requests(Requests::ListProtobuf),
        targets: &[target(Unit::PerSecond, 150.0), target(Unit::Cpu, 6000.0)],
    },
    Row {
        name: "list-consistent",
        what: "LIST 2,000 pods JSON, consistent",
        measure: Measure::Requests(Requests::ListConsistent),
        targets: &[target(Unit::PerSecond, 80.0), target(Unit::Cpu, 10_000.0)],
    },
    Row {
        name: "list-pages",
        what: "LIST, pages of 500 pods",
        measure: Measure::Requests(Requests::ListPages),
        targets: &[target(Unit::PerSecond, 300.0), target(Unit::Cpu, 3000.0)],
    },
    Row {
        name: "loaded",
        what: "RSS of store and API server after that load",
        measure: Measure::Loaded,
        targets: &[target(Unit::Mebibytes, 100.0)],
    },
    Row {
        name: "watch",
        what: "1,000 watchers, 200 writes of 1 KiB: events",
        measure: Measure::Watch,
        targets: &[target(Unit::PerSecond, 80_000.0), target(Unit::Cpu, 8.0)],
    },
    Row {
        name: "scheduling",
        what: "5,000 pods on 1,000 nodes, scheduler started on the backlog",
        measure: Measure::Scheduling,
        targets: &[target(Unit::PerSecond, 4000.0), target(Unit::Mebibytes, 200.0)],
    },
    Row {
        name: "node-ready",
        what: "exec to node Ready",
        measure: Measure::NodeReady,
        targets: &[target(Unit::Seconds, 1.0)],
    },
    Row {
        name: "idle-node",
        what: "RSS of an idle server with a node and DNS",
        measure: Measure::IdleNode,
        targets: &[target(Unit::Mebibytes, 128.0)],
    },
    Row {
        name: "pod-alone",
        what: "pod create to Running, image present, alone",
        measure: Measure::PodAlone,
        targets: &[target(Unit::Median, 120.0)],
    },
    Row {
        name: "pods-together",
        what: "50 pods at once on one node, all Running",
        measure: Measure::PodsTogether,
        targets: &[target(Unit::Seconds, 2.5)],
    },
    Row {
        name: "pods-gone",
        what: "50 pods deleted at once (grace 1 s), all gone",
        measure: Measure::PodsGone,
        targets: &[target(Unit::Seconds, 2.5)],
    },
];

/// The rows that were asked for, in their order. The error names what is no row.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("--rows: {unknown} is no row; there are {}", all.join(", ")));
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)).collect())
}

/// What came of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was measured. Figures without a target are told beside.
    Measured(Vec<Figure>),
    /// It was not, and why.
    Skipped(String),
    /// It was tried in vain, and why.
    Failed(String),
}

impl Row {
    /// Whether every target is met. `None` when a target has no figure, or the row was skipped.
    pub fn met(&self, outcome: &Outcome) -> Option<bool> {
        let Outcome::Measured(figures) = outcome else { return None };
        let each = self.targets.iter().map(|target| {
            figures.iter().find(|figure| figure.unit == target.unit).map(|figure| target.met(figure.value))
        });
        each.collect::<Option<Vec<bool>>>().map(|all| all.into_iter().all(|met| met))
    }

    /// The row as one line of the table.
    pub fn line(&self, outcome: &Outcome) -> String {
        let targets: Vec<String> = self.targets.iter().map(Target::show).collect();
        let (figures, verdict) = match outcome {
            Outcome::Skipped(why) => (format!("skipped: {why}"), ""),
            Outcome::Failed(why) => (format!("failed: {why}"), "failed"),
            Outcome::Measured(figures) => {
                let shown: Vec<String> = figures.iter().map(|figure| figure.unit.show(figure.value)).collect();
                let verdict = match self.met(outcome) {
                    Some(true) => "met",
                    Some(false) => "missed",
                    None => "",
                };
                (shown.join(", "), verdict)
            }
        };
        format!("{:<19} {:<58} {:<27} {verdict}", self.name, figures, targets.join(", ")).trim_end().to_owned()
    }

    /// The row as JSON.
    pub fn json(&self, outcome: &Outcome) -> serde_json::Value {
        let mut out = serde_json::json!({ "name": self.name, "what": self.what });
        let pairs = |units: &mut dyn Iterator<Item = (Unit, f64)>| {
            units.map(|(unit, value)| (unit.name().to_owned(), value.into())).collect::<serde_json::Map<_, _>>()
        };
        out["target"] = pairs(&mut self.targets.iter().map(|target| (target.unit, target.value))).into();
        match outcome {
            Outcome::Skipped(why) => out["skipped"] = why.as_str().into(),
            Outcome::Failed(why) => out["failed"] = why.as_str().into(),
            Outcome::Measured(figures) => {
                out["figures"] = pairs(&mut figures.iter().map(|figure| (figure.unit, figure.value))).into();
                out["met"] = self.met(outcome).into();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).expect("a row")
    }
    fn measured(figures: &[(Unit, f64)]) -> Outcome {
        Outcome::Measured(figures.iter().map(|(unit, value)| Figure { unit: *unit, value: *value }).collect())
    }

    #[test]
    fn every_target_has_to_be_met() {
        let row = row("get-pod");
        assert_eq!(row.met(&measured(&[(Unit::PerSecond, 20_000.0), (Unit::Cpu, 50.0)])), Some(true));
        assert_eq!(row.met(&measured(&[(Unit::PerSecond, 19_999.0), (Unit::Cpu, 50.0)])), Some(false));
        assert_eq!(row.met(&measured(&[(Unit::PerSecond, 30_000.0), (Unit::Cpu, 50.1)])), Some(false));
        // The CPU of another's server may be unknown: neither met nor missed.
        assert_eq!(row.met(&measured(&[(Unit::PerSecond, 30_000.0)])), None);
        assert_eq!(row.met(&Outcome::Skipped("no".to_owned())), None);
        assert_eq!(row.met(&Outcome::Failed("no".to_owned())), None);
    }

    #[test]
    fn lines_are_read_by_people_and_json_by_programs() {
        let outcome = measured(&[(Unit::PerSecond, 29_812.4), (Unit::Cpu, 26.6), (Unit::P99, 2.04)]);
        let line = row("get-pod").line(&outcome);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.join(" "), "get-pod 29,812/s, 27 us CPU, p99 2.0 ms >= 20,000/s, <= 50 us CPU met");
        let json = row("get-pod").json(&outcome);
        assert_eq!(json["figures"]["perSecond"], 29_812.4);
        assert_eq!(json["target"]["cpuMicroseconds"], 50.0);
        assert_eq!(json["met"], true);
    }

    #[test]
    fn names_are_unique_and_unknown_ones_refused() {
        let names: std::collections::BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        assert_eq!(chosen(&[]).map(|rows| rows.len()), Ok(ROWS.len()));
        let order: Vec<&str> =
            chosen(&["watch".to_owned(), "readyz".to_owned()]).unwrap_or_default().iter().map(|row| row.name).collect();
        assert_eq!(order, ["readyz", "watch"]);
        assert!(chosen(&["what".to_owned()]).is_err_and(|error| error.starts_with("--rows: what is no row")));
    }

    #[test]
    fn numbers_are_grouped() {
        let shown: Vec<String> = [7.0, 999.0, 1000.0, 12_345.6, 1_234_567.0].map(thousands).into();
        assert_eq!(shown, ["7", "999", "1,000", "12,346", "1,234,567"]);
    }
}
