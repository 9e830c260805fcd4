//! Circles in a graph of names.

use std::collections::{BTreeMap, BTreeSet};

/// Who refers to whom.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The groups of two and more nodes in which each reaches each other, with the edges inside the group as `a -> b`.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|node| (node, reached_from(node, graph))).collect();
    let mut groups: BTreeSet<BTreeSet<&String>> = BTreeSet::new();
    for (node, others) in &reached {
        let back = |other: &&String| reached.get(*other).is_some_and(|from| from.contains(*node));
        let group: BTreeSet<&String> = others.iter().copied().filter(back).collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    let inside = |group: &BTreeSet<&String>| {
        let edges = group.iter().flat_map(|from| graph[*from].iter().map(move |to| (*from, to)));
        edges.filter(|(_, to)| group.contains(to)).map(|(from, to)| format!("{from} -> {to}")).collect()
    };
    groups.iter().map(inside).collect()
}

/// All nodes that a walk from `start` along the edges comes to, which is `start` itself only in a circle.
fn reached_from<'g>(start: &String, graph: &'g Graph) -> BTreeSet<&'g String> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&String> = graph.get(start).into_iter().flatten().collect();
    while let Some(node) = left.pop() {
        if reached.insert(node) {
            left.extend(graph.get(node).into_iter().flatten());
        }
    }
    reached
}
