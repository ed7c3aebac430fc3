//! From a wish to a size (`horizontal.go: normalizeDesiredReplicas`, `...WithBehaviors`), pure: what was recommended
//! lately holds a size back, policies say how fast it may change, limits stand above all.

use crate::workload::int_at;
use skiff_machinery::Value;
use skiff_machinery::quantity::Quantity;

/// How long a smaller size waits, unless the autoscaler says (`--horizontal-pod-autoscaler-downscale-stabilization`).
pub(super) const DOWNSCALE_STABILIZATION: i64 = 5 * 60;
/// By how much usage may differ from its target (`--horizontal-pod-autoscaler-tolerance`).
pub(super) const TOLERANCE: f64 = 0.1;

/// What an autoscaler remembers. Times are seconds of a clock that never jumps.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// When and what was recommended.
    pub(super) recommendations: Vec<(i64, i64)>,
    /// When and by how many the size grew.
    pub(super) ups: Vec<(i64, i64)>,
    /// When and by how many it shrank.
    pub(super) downs: Vec<(i64, i64)>,
}

/// How a size may change in one direction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    /// Seconds for which earlier recommendations count.
    window: i64,
    /// `Max`, `Min` or `Disabled`.
    select: String,
    policies: Vec<Policy>,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    is_percent: bool,
    value: i64,
    period: i64,
}

impl Rules {
    /// `spec.behavior.scaleUp` or `scaleDown`, with upstream's defaults for what is not said.
    fn read(behavior: &Value, field: &str) -> Self {
        let up = field == "scaleUp";
        let said = behavior.get(field);
        let window = said.map_or(-1, |said| int_at(said, &["stabilizationWindowSeconds"], -1));
        let select = said.map_or("", |said| said.str_at(&["selectPolicy"]));
        let read = |policy: &Value| Policy {
            is_percent: policy.str_at(&["type"]) == "Percent",
            value: int_at(policy, &["value"], 0),
            period: int_at(policy, &["periodSeconds"], 0),
        };
        let mut policies: Vec<Policy> =
            said.map_or(&[][..], |said| said.items_at(&["policies"])).iter().map(read).collect();
        if policies.is_empty() {
            if up {
                policies.push(Policy { is_percent: false, value: 4, period: 15 });
            }
            policies.push(Policy { is_percent: true, value: 100, period: 15 });
        }
        let default_window = if up { 0 } else { DOWNSCALE_STABILIZATION };
        Self {
            window: if window < 0 { default_window } else { window },
            select: if select.is_empty() { "Max" } else { select }.to_owned(),
            policies,
        }
    }

    fn longest_period(&self) -> i64 {
        self.policies.iter().map(|policy| policy.period).max().unwrap_or(0)
    }

    /// The size that the policies allow in this direction; `current` when it is switched off.
    fn limit(&self, up: bool, current: i64, memory: &Memory, now: i64) -> i64 {
        if self.select == "Disabled" {
            return current;
        }
        let changed = |events: &[(i64, i64)], period: i64| -> i64 {
            events.iter().filter(|(at, _)| *at > now - period).map(|(_, change)| change).sum()
        };
        let allowed = self.policies.iter().map(|policy| {
            let start = current - changed(&memory.ups, policy.period) + changed(&memory.downs, policy.period);
            match (policy.is_percent, up) {
                (false, true) => start + policy.value,
                (false, false) => start - policy.value,
                // Rounded so that one replica can become two, and two become one.
                (true, true) => (start as f64 * (1.0 + policy.value as f64 / 100.0)).ceil() as i64,
                (true, false) => (start as f64 * (1.0 - policy.value as f64 / 100.0)) as i64,
            }
        });
        // The policy with the largest change, or with the smallest.
        let highest = (self.select != "Min") == up;
        if highest { allowed.max() } else { allowed.min() }.unwrap_or(current)
    }
}

/// Usage within these of its target changes nothing: down, up.
pub(super) fn tolerances(autoscaler: &Value) -> (f64, f64) {
    let said = |direction: &str| {
        let quantity = autoscaler.str_at(&["spec", "behavior", direction, "tolerance"]);
        Quantity::parse(quantity).map_or(TOLERANCE, |quantity| quantity.as_f64())
    };
    (said("scaleDown"), said("scaleUp"))
}

/// A condition without its time: type, status, reason, message.
pub(super) type Said = (&'static str, bool, &'static str, &'static str);

/// A size, and why it is not another one.
#[derive(Debug, PartialEq)]
pub(super) struct Normalized {
    pub(super) replicas: i64,
    /// `AbleToScale` and `ScalingLimited`.
    pub(super) conditions: [Said; 2],
}

const READY: Said = ("AbleToScale", true, "ReadyForNewScale", "recommended size matches current size");
const LOWEST: &str = "recent recommendations were lower than current one, applying the lowest recent recommendation";
const HIGHEST: &str = "recent recommendations were higher than current one, applying the highest recent recommendation";
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// The size for a wish; the wish is remembered.
pub(super) fn normalize(
    autoscaler: &Value,
    memory: &mut Memory,
    current: i64,
    wished: i64,
    (min, max): (i64, i64),
    now: i64,
) -> Normalized {
    let behavior = autoscaler.at(&["spec", "behavior"]).filter(|behavior| behavior.as_object().is_some());
    let rules = behavior.map(|behavior| (Rules::read(behavior, "scaleUp"), Rules::read(behavior, "scaleDown")));
    let (stable, why) = match &rules {
        None => (highest_since(memory, wished, now - DOWNSCALE_STABILIZATION), ("ScaleDownStabilized", HIGHEST)),
        Some((up, down)) => {
            let lowest = recommended(memory, now - up.window).min().map_or(wished, |lowest| lowest.min(wished));
            let highest = highest_since(memory, wished, now - down.window);
            let stable = current.max(lowest).min(highest);
            let grows = wished >= current;
            (stable, if grows { ("ScaleUpStabilized", LOWEST) } else { ("ScaleDownStabilized", HIGHEST) })
        }
    };
    let longest = rules.as_ref().map_or(DOWNSCALE_STABILIZATION, |(up, down)| up.window.max(down.window));
    memory.recommendations.retain(|(at, _)| *at > now - longest);
    memory.recommendations.push((now, wished));
    let able = if stable == wished { READY } else { ("AbleToScale", true, why.0, why.1) };
    let (replicas, limit) = match &rules {
        None => {
            // Twice as many at once, or four.
            let fastest = (2 * current).max(4);
            let (most, why) = if max > fastest { (fastest, TOO_FAST_UP) } else { (max, TOO_MANY) };
            clamp(stable, (min, TOO_FEW), (most, why))
        }
        Some((up, down)) => {
            let fastest = up.limit(true, current, memory, now).max(current);
            let (most, why_most) = if max > fastest { (fastest, TOO_FAST_UP) } else { (max, TOO_MANY) };
            let slowest = down.limit(false, current, memory, now).min(current);
            let (least, why_least) = if min < slowest { (slowest, TOO_FAST_DOWN) } else { (min, TOO_FEW) };
            match stable {
                grown if grown > current => clamp(grown, (i64::MIN, TOO_FEW), (most, why_most)),
                shrunk if shrunk < current => clamp(shrunk, (least, why_least), (i64::MAX, TOO_MANY)),
                same => (same, WITHIN),
            }
        }
    };
    let limited = ("ScalingLimited", replicas != stable, limit.0, limit.1);
    Normalized { replicas, conditions: [able, limited] }
}

fn recommended(memory: &Memory, since: i64) -> impl Iterator<Item = i64> {
    memory.recommendations.iter().filter(move |(at, _)| *at > since).map(|(_, replicas)| *replicas)
}

fn highest_since(memory: &Memory, wished: i64, since: i64) -> i64 {
    recommended(memory, since).max().map_or(wished, |highest| highest.max(wished))
}

type Words = (&'static str, &'static str);

fn clamp(wished: i64, least: (i64, Words), most: (i64, Words)) -> (i64, Words) {
    if wished < least.0 {
        least
    } else if wished > most.0 {
        most
    } else {
        (wished, WITHIN)
    }
}

/// Remembers a change for the policies (`storeScaleEvent`).
pub(super) fn remember_change(autoscaler: &Value, memory: &mut Memory, from: i64, to: i64, now: i64) {
    let Some(behavior) = autoscaler.at(&["spec", "behavior"]).filter(|said| said.as_object().is_some()) else { return };
    let (field, events) = if to > from { ("scaleUp", &mut memory.ups) } else { ("scaleDown", &mut memory.downs) };
    // Both directions look at both kinds of changes.
    let other = if to > from { "scaleDown" } else { "scaleUp" };
    let longest = Rules::read(behavior, field).longest_period().max(Rules::read(behavior, other).longest_period());
    events.retain(|(at, _)| *at > now - longest);
    events.push((now, (to - from).abs()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    fn plain() -> Value {
        object! { "spec": object! {} }
    }
    fn with(behavior: Value) -> Value {
        object! { "spec": object! { "behavior": behavior } }
    }
    fn reasons(made: &Normalized) -> (i64, &'static str, &'static str) {
        (made.replicas, made.conditions[0].2, made.conditions[1].2)
    }

    #[test]
    fn without_behavior_it_doubles_at_most_and_shrinks_after_five_minutes() {
        let mut memory = Memory::default();
        let first = normalize(&plain(), &mut memory, 5, 20, (1, 30), 0);
        assert_eq!(reasons(&first), (10, "ReadyForNewScale", "ScaleUpLimit"));
        assert!(first.conditions[1].1);
        let small = normalize(&plain(), &mut Memory::default(), 1, 9, (1, 30), 0);
        assert_eq!(small.replicas, 4, "four at once from nearly nothing");
        let less = normalize(&plain(), &mut memory, 10, 3, (1, 30), 60);
        assert_eq!(reasons(&less), (20, "ScaleDownStabilized", "DesiredWithinRange"));
        let later = normalize(&plain(), &mut memory, 10, 3, (1, 30), 301);
        assert_eq!(reasons(&later), (3, "ReadyForNewScale", "DesiredWithinRange"));
        let least = normalize(&plain(), &mut Memory::default(), 3, 0, (2, 30), 0);
        assert_eq!(reasons(&least), (2, "ReadyForNewScale", "TooFewReplicas"));
        let most = normalize(&plain(), &mut Memory::default(), 5, 9, (2, 7), 0);
        assert_eq!(reasons(&most), (7, "ReadyForNewScale", "TooManyReplicas"));
    }

    #[test]
    fn policies_say_how_fast() {
        let pods = |value: i64, period: i64| object! { "type": "Pods", "value": value, "periodSeconds": period };
        let percent = |value: i64, period: i64| object! { "type": "Percent", "value": value, "periodSeconds": period };
        let up = |select: &str, policies: Value| {
            with(object! { "scaleUp": object! { "selectPolicy": select, "policies": policies } })
        };
        let grown = |autoscaler: &Value| normalize(autoscaler, &mut Memory::default(), 10, 100, (1, 100), 0).replicas;
        assert_eq!(grown(&up("Max", list![pods(4, 15), percent(100, 15)])), 20);
        assert_eq!(grown(&up("Min", list![pods(4, 15), percent(100, 15)])), 14);
        assert_eq!(grown(&up("Disabled", list![pods(4, 15)])), 10);
        assert_eq!(grown(&with(object! {})), 20, "the defaults: four, or twice as many");
        let one = normalize(&up("Max", list![percent(10, 15)]), &mut Memory::default(), 1, 9, (1, 100), 0);
        assert_eq!(one.replicas, 2, "rounded up");
        let down = |select: &str, policies: Value| {
            with(object! { "scaleDown": object! {
                "selectPolicy": select, "policies": policies, "stabilizationWindowSeconds": 0,
            } })
        };
        let shrunk = |autoscaler: &Value| normalize(autoscaler, &mut Memory::default(), 10, 1, (1, 100), 0).replicas;
        assert_eq!(shrunk(&down("Max", list![pods(2, 15), percent(50, 15)])), 5);
        assert_eq!(shrunk(&down("Min", list![pods(2, 15), percent(50, 15)])), 8);
        assert_eq!(shrunk(&down("Disabled", list![pods(2, 15)])), 10);
    }

    #[test]
    fn a_period_counts_what_was_added_in_it() {
        let policy = object! { "type": "Pods", "value": 4, "periodSeconds": 60 };
        let autoscaler = with(object! { "scaleUp": object! { "policies": list![policy] } });
        let mut memory = Memory::default();
        let grow = |memory: &mut Memory, current: i64, now: i64| {
            let made = normalize(&autoscaler, memory, current, 100, (1, 100), now).replicas;
            if made != current {
                remember_change(&autoscaler, memory, current, made, now);
            }
            made
        };
        assert_eq!(grow(&mut memory, 10, 0), 14);
        assert_eq!(grow(&mut memory, 14, 15), 14, "four in a minute and no more");
        assert_eq!(grow(&mut memory, 14, 61), 18);
    }

    #[test]
    fn windows_hold_a_size_back_in_their_direction() {
        let autoscaler = with(object! {
            "scaleUp": object! { "stabilizationWindowSeconds": 60 },
            "scaleDown": object! { "stabilizationWindowSeconds": 120 },
        });
        let mut memory = Memory { recommendations: vec![(0, 5)], ..Memory::default() };
        let made = normalize(&autoscaler, &mut memory, 5, 9, (1, 20), 30);
        assert_eq!(reasons(&made), (5, "ScaleUpStabilized", "DesiredWithinRange"));
        let made = normalize(&autoscaler, &mut memory, 5, 9, (1, 20), 61);
        assert_eq!(made.replicas, 9);
        let made = normalize(&autoscaler, &mut memory, 9, 2, (1, 20), 100);
        assert_eq!(reasons(&made), (9, "ScaleDownStabilized", "DesiredWithinRange"));
    }

    #[test]
    fn tolerances_can_be_said() {
        assert_eq!(tolerances(&plain()), (TOLERANCE, TOLERANCE));
        let said = with(object! { "scaleUp": object! { "tolerance": "50m" } });
        assert_eq!(tolerances(&said), (TOLERANCE, 0.05));
    }
}
