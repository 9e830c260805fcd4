//! Certificate policies along a path: whether a valid policy is left where the path requires one.
//!
//! Keeps a graph of policies instead of the tree of RFC 5280, whose size can grow exponentially with the length of the
//! path (CVE-2023-0464). Each level has at most as many nodes as its certificates have policies and mappings.
//!
//! Spec: RFC 5280 § 6.1 as amended by RFC 9618. The policies of the trust anchor do not count.

use std::collections::{BTreeMap, BTreeSet};

/// The content of the DER of an object identifier.
pub(in crate::tls) type PolicyId<'a> = &'a [u8];

/// 2.5.29.32.0
pub(super) const ANY_POLICY: PolicyId<'static> = &[0x55, 0x1d, 0x20, 0x00];

/// The policy extensions of one certificate.
#[derive(Debug, Default)]
pub(super) struct PolicyExtensions<'a> {
    /// `certificatePolicies`; `None` without the extension.
    pub(super) policies: Option<BTreeSet<PolicyId<'a>>>,
    /// `policyMappings`: issuer domain policy, subject domain policy.
    pub(super) mappings: Vec<(PolicyId<'a>, PolicyId<'a>)>,
    /// `policyConstraints`.
    pub(super) require_explicit: Option<u32>,
    /// `policyConstraints`.
    pub(super) inhibit_mapping: Option<u32>,
    /// `inhibitAnyPolicy`.
    pub(super) inhibit_any: Option<u32>,
}

/// One certificate of a path, as far as policies are concerned.
pub(super) struct PolicyStep<'p, 'a> {
    pub(super) own: &'p PolicyExtensions<'a>,
    pub(super) is_self_issued: bool,
}

/// What the operator requires of a path. The gateway requires nothing: every policy is acceptable.
#[derive(Debug, Clone, Default)]
pub(in crate::tls) struct InitialPolicies<'a> {
    /// The acceptable policies; every policy if it is empty.
    pub(in crate::tls) acceptable: Vec<PolicyId<'a>>,
    /// Whether the path must have a valid policy.
    pub(in crate::tls) explicit: bool,
    /// Whether mappings are inhibited.
    pub(in crate::tls) inhibit_mapping: bool,
    /// Whether `anyPolicy` is inhibited.
    pub(in crate::tls) inhibit_any: bool,
}

/// The policies that are valid at one certificate.
#[derive(Default)]
struct Level<'a> {
    /// Each policy with its parents on the level above. A policy without parents comes from `anyPolicy`.
    nodes: BTreeMap<PolicyId<'a>, BTreeSet<PolicyId<'a>>>,
    has_any_policy: bool,
}

impl Level<'_> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.has_any_policy
    }
}

/// Whether `path`, from the certificate below the trust anchor down to the leaf certificate, has a valid policy or
/// needs none.
pub(super) fn are_valid(path: &[PolicyStep<'_, '_>], initial: &InitialPolicies<'_>) -> bool {
    let length = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
    let start = |is_set: bool| if is_set { 0 } else { length };
    let mut explicit = start(initial.explicit);
    let mut mapping = start(initial.inhibit_mapping);
    let mut any = start(initial.inhibit_any);
    let mut levels = Vec::new();
    let mut level = Level { nodes: BTreeMap::new(), has_any_policy: true };
    for (index, PolicyStep { own, is_self_issued }) in path.iter().enumerate() {
        let is_last = index + 1 == path.len();
        apply_policies(own, &mut level, any > 0 || (!is_last && *is_self_issued));
        if is_last {
            explicit = explicit.saturating_sub(1);
            if own.require_explicit == Some(0) {
                explicit = 0;
            }
            levels.push(level);
            break;
        }
        let next = apply_mappings(own, &mut level, mapping > 0);
        levels.push(std::mem::replace(&mut level, next));
        if !*is_self_issued {
            explicit = explicit.saturating_sub(1);
            mapping = mapping.saturating_sub(1);
            any = any.saturating_sub(1);
        }
        explicit = explicit.min(own.require_explicit.unwrap_or(u32::MAX));
        mapping = mapping.min(own.inhibit_mapping.unwrap_or(u32::MAX));
        any = any.min(own.inhibit_any.unwrap_or(u32::MAX));
    }
    explicit > 0 || has_acceptable_policy(&levels, &initial.acceptable)
}

/// RFC 5280 § 6.1.3 (d) and (e).
fn apply_policies<'a>(own: &PolicyExtensions<'a>, level: &mut Level<'a>, allows_any: bool) {
    let Some(policies) = &own.policies else {
        *level = Level::default();
        return;
    };
    let had_any_policy = level.has_any_policy;
    if !policies.contains(ANY_POLICY) || !allows_any {
        level.nodes.retain(|policy, _| policies.contains(policy));
        level.has_any_policy = false;
    }
    if had_any_policy {
        for policy in policies.iter().filter(|policy| **policy != ANY_POLICY) {
            level.nodes.entry(policy).or_default();
        }
    }
}

/// The level below, before the policies of its certificate are applied. RFC 5280 § 6.1.4 (a) and (b).
fn apply_mappings<'a>(own: &PolicyExtensions<'a>, level: &mut Level<'a>, allows_mapping: bool) -> Level<'a> {
    let mut next = Level { nodes: BTreeMap::new(), has_any_policy: level.has_any_policy };
    if allows_mapping {
        for (issuer, subject) in &own.mappings {
            if level.has_any_policy {
                level.nodes.entry(issuer).or_default();
            }
            if level.nodes.contains_key(issuer) {
                next.nodes.entry(subject).or_default().insert(issuer);
            }
        }
    } else {
        for (issuer, _) in &own.mappings {
            level.nodes.remove(issuer);
        }
    }
    let mapped: BTreeSet<_> = own.mappings.iter().map(|(issuer, _)| *issuer).collect();
    for policy in level.nodes.keys().filter(|policy| !mapped.contains(*policy)) {
        next.nodes.entry(policy).or_default().insert(policy);
    }
    next
}

/// Whether a policy of the last level comes from an acceptable policy. RFC 5280 § 6.1.5 (g).
fn has_acceptable_policy(levels: &[Level<'_>], acceptable: &[PolicyId<'_>]) -> bool {
    let Some(last) = levels.last() else { return false };
    if last.is_empty() {
        return false;
    }
    if acceptable.is_empty() || acceptable.contains(&ANY_POLICY) || last.has_any_policy {
        return true;
    }
    // The policies of each level that lead to the last one, from the last level up.
    let mut leading: BTreeSet<PolicyId<'_>> = last.nodes.keys().copied().collect();
    for level in levels.iter().rev() {
        let mut above = BTreeSet::new();
        for (policy, parents) in level.nodes.iter().filter(|(policy, _)| leading.contains(*policy)) {
            if parents.is_empty() && acceptable.contains(policy) {
                return true;
            }
            above.extend(parents.iter().copied());
        }
        leading = above;
    }
    false
}
