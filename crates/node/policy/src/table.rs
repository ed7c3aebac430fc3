//! The table in the kernel, whole or by the difference between two contents.

use skiff_linux::nft::{
    Batch, Ct, Data, Element, Expr, Family as TableFamily, Hook, HookPoint, MapTo, Set as KernelSet, Table, Verdict,
    reg,
};

use crate::decide::{Desired, Direction, Family, Set};

/// The table.
pub const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "skiff-policy" };

/// `ct state established,related`.
const CT_KNOWN: u32 = 2 | 4;

/// Chains and rules that are always there: a base chain for each direction, in it one rule for connections that are known and
/// one for each family.
const BASE: (usize, usize) = (2, 6);

fn map_name(direction: Direction, family: Family) -> String {
    format!("{}-{}", direction.word(), family.word())
}

fn elements(set: &Set) -> Vec<Element> {
    set.keys.iter().map(|key| Element::key(key.clone())).collect()
}

fn goto(key: &[u8], chain: &str) -> Element {
    Element { key: key.to_vec(), data: Data::Verdict(Verdict::Goto(chain.to_owned())) }
}

/// How many chains and rules the kernel has with this content.
pub fn counts(desired: &Desired) -> (usize, usize) {
    (BASE.0 + desired.chains.len(), BASE.1 + desired.chains.values().map(Vec::len).sum::<usize>())
}

/// Removes the table, whether it is there or not.
pub fn none() -> Batch {
    let mut batch = Batch::new();
    // `add` makes `delete` safe where there is none.
    batch.add_table(TABLE);
    batch.delete_table(TABLE);
    batch
}

/// The whole content in place of whatever is there.
pub fn whole(desired: &Desired) -> Batch {
    let mut batch = none();
    batch.add_table(TABLE);
    // After the proxy's, which refuses what has no endpoint: a refusal tells more than silence.
    for (direction, priority) in Direction::ALL.into_iter().zip([10, 11]) {
        let hook = Hook { kind: "filter", point: HookPoint::Forward, priority };
        batch.add_chain(TABLE, direction.word(), Some(hook));
        let known = [
            Expr::Ct { dreg: reg(0), key: Ct::State },
            Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask: CT_KNOWN.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::neq(reg(0), 0u32.to_ne_bytes()),
            Expr::Verdict(Verdict::Accept),
        ];
        batch.add_rule(TABLE, direction.word(), &known);
        for family in Family::ALL {
            let name = map_name(direction, family);
            let (key_type, key_len) = (family.kind(), family.bytes());
            let map = KernelSet {
                name: name.clone(),
                key_type,
                key_len,
                to: MapTo::Verdicts,
                timeout: None,
                size: None,
                anonymous: false,
            };
            batch.add_set(TABLE, &map);
            let mut rule = family.is_meant().to_vec();
            rule.extend([family.own(direction), Expr::vmap(reg(0), &name)]);
            batch.add_rule(TABLE, direction.word(), &rule);
        }
    }
    change(&mut batch, &Desired::default(), desired);
    batch
}

/// What is different, for a table that has the content `before`.
pub fn difference(before: &Desired, desired: &Desired) -> Batch {
    let mut batch = Batch::new();
    change(&mut batch, before, desired);
    batch
}

/// The order: names before who uses them, uses gone before names go; an element goes before it comes with another value.
fn change(batch: &mut Batch, before: &Desired, desired: &Desired) {
    for (name, set) in &desired.sets {
        let Some(old) = before.sets.get(name) else {
            let made = KernelSet {
                name: name.clone(),
                key_type: set.key_type,
                key_len: set.key_len,
                to: MapTo::Nothing,
                timeout: None,
                size: None,
                anonymous: false,
            };
            batch.add_set(TABLE, &made);
            batch.add_elements(TABLE, name, None, &elements(set));
            continue;
        };
        let only = |one: &Set, other: &Set| -> Vec<Element> {
            one.keys.difference(&other.keys).map(|key| Element::key(key.clone())).collect()
        };
        batch.delete_elements(TABLE, name, &only(old, set));
        batch.add_elements(TABLE, name, None, &only(set, old));
    }
    for name in desired.chains.keys().filter(|name| !before.chains.contains_key(*name)) {
        batch.add_chain(TABLE, name, None);
    }
    for (name, rules) in &desired.chains {
        match before.chains.get(name) {
            Some(old) if old == rules => continue,
            Some(_) => batch.flush_chain(TABLE, name),
            None => (),
        }
        rules.iter().for_each(|rule| batch.add_rule(TABLE, name, rule));
    }
    for direction in Direction::ALL {
        for family in Family::ALL {
            let of = |content: &Desired| content.isolated.get(&(direction, family)).cloned().unwrap_or_default();
            let (old, new, name) = (of(before), of(desired), map_name(direction, family));
            let gone: Vec<Element> = old
                .iter()
                .filter(|(key, chain)| new.get(*key) != Some(chain))
                .map(|(key, _)| Element::key(key.clone()))
                .collect();
            batch.delete_elements(TABLE, &name, &gone);
            let come: Vec<Element> = new
                .iter()
                .filter(|(key, chain)| old.get(*key) != Some(chain))
                .map(|(key, chain)| goto(key, chain))
                .collect();
            batch.add_elements(TABLE, &name, None, &come);
        }
    }
    let dead = |name: &&String| !desired.chains.contains_key(*name);
    before.chains.keys().filter(dead).for_each(|name| batch.flush_chain(TABLE, name));
    before.chains.keys().filter(dead).for_each(|name| batch.delete_chain(TABLE, name));
    let dead = before.sets.keys().filter(|name| !desired.sets.contains_key(*name));
    dead.for_each(|name| batch.delete_set(TABLE, name));
}
