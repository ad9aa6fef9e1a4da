//! What a change can change of an object, as short texts: events show them before and after.
//! Never shows a password, only that there is one or another one. The names are those of the command line.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    auth::ProductAuth,
    client_rules::ClientRules,
    ids::{GroupId, HoldId, NodeId, SlotId},
    limits::TEXT_LEN_MAX,
    migration::{EndedMigration, Limits, Migration},
    printable::printable,
    reads::ReadPolicy,
    route::{Isolated, Mode},
    script::{Loaded, ScriptCatalogue, ScriptDigest},
    secret::{Credentials, Secret},
    slot::Layout,
    state::{
        Cause, ClusterState, FormerControlUser, Group, GroupOptions, Member, Product, RaftMembership, Role, Server,
        Settings, SlotState,
    },
};

/// The facts of an object, in a fixed order. Empty: it does not exist.
pub(super) type Facts = Vec<Fact>;

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    name: &'static str,
    value: String,
    /// A fact whose value is not shown may change, too.
    secret: Option<Secret>,
}

fn fact(name: &'static str, value: impl ToString) -> Fact {
    Fact { name, value: value.to_string(), secret: None }
}

/// What a fact is that is not there, and all of an object that does not exist.
const NONE: &str = "none";

/// The differences as texts, before and after: "ops-max=none", "ops-max=1000". Of an object that is new, or that is gone:
/// what it has. Both are empty if there is no difference.
pub(super) fn difference(before: &Facts, after: &Facts) -> (String, String) {
    match (before.is_empty(), after.is_empty()) {
        (true, true) => return Default::default(),
        (true, false) => return (none(), all(after)),
        (false, true) => return (all(before), none()),
        (false, false) => {}
    }
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for now in after {
        let Some(was) = before.iter().find(|was| was.name == now.name).filter(|was| *was != now) else { continue };
        old.push((was.name, was.value.as_str()));
        new.push((now.name, if was.value == now.value { "changed" } else { now.value.as_str() }));
    }
    (listed(&old), listed(&new))
}

fn all(facts: &Facts) -> String {
    let present = facts.iter().filter(|fact| fact.value != NONE);
    listed(&present.map(|fact| (fact.name, fact.value.as_str())).collect::<Vec<_>>())
}

fn listed(facts: &[(&str, &str)]) -> String {
    let all: Vec<String> = facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    printable(&all.join(", "), TEXT_LEN_MAX)
}

pub(super) fn of_settings(settings: &Settings) -> Facts {
    let Settings { voters, hold_ms_max, maintenance, failover_share_max } = settings;
    vec![
        fact("voters", voters),
        fact("hold-max", time(*hold_ms_max)),
        fact("maintenance", on_off(*maintenance)),
        fact("failover-share-max", format!("{failover_share_max}%")),
    ]
}

/// Who is in the cluster.
pub(super) fn of_members(state: &ClusterState) -> Facts {
    if state.members.is_empty() {
        return Vec::new();
    }
    let one = |member: &Member| {
        let chosen = if member.role == Role::Auto { String::new() } else { format!("({})", role_name(member.role)) };
        let leaving = if member.leaving.is_some() { "(leaving)" } else { "" };
        format!("{}{chosen}{leaving}", member.id)
    };
    vec![fact("members", state.members.values().map(one).collect::<Vec<_>>().join(" "))]
}

pub(super) fn of_raft(membership: &RaftMembership) -> Facts {
    let RaftMembership { voters, learners } = membership;
    vec![fact("voters", ids(voters)), fact("learners", ids(learners))]
}

pub(super) fn of_member(member: &Member) -> Facts {
    let Member { id: _, uuid, admin, advertise, port_offset, role, admitted, leaving } = member;
    let leaving = match leaving {
        None => "no",
        Some(leaving) if leaving.assume_dead => "yes, vouched to be dead",
        Some(_) => "yes",
    };
    vec![
        fact("uuid", uuid),
        fact("admin", admin),
        fact("advertise", advertise),
        fact("port-offset", port_offset),
        fact("role", role_name(*role)),
        fact("admitted", admitted.map_or_else(none, |a| format!("entry {}", a.incarnation))),
        fact("leaving", leaving),
    ]
}

/// Everything that an operator sets of a product.
pub(super) fn of_product(product: &Product) -> Facts {
    // A new field must be considered here.
    let Product {
        id: _,
        name: _,
        port,
        layout,
        mode,
        isolated,
        databases,
        auth,
        groups: _,
        auto_rebalance,
        min_acks,
        min_acks_ms,
        reads,
        clients_max,
        rules,
        // What clients load is no setting; see `of_scripts` and the next ones.
        scripts: _,
        sweep_runs: _,
        slots: _,
        scans: _,
    } = product;
    let ReadPolicy { from, max_lag_ms, own_writes, confirmed } = reads;
    let ClientRules {
        ops_max,
        bytes_max,
        scripts_off,
        script_loads_max,
        errors_detailed,
        blocked_errors,
        server_commands,
        debug_commands,
        redis_version,
        idle_ms,
    } = rules;
    let mut facts = vec![
        fact("port", port),
        fact("layout", layout_name(*layout)),
        fact("mode", if *mode == Mode::Cache { "cache" } else { "store" }),
        fact("isolated", if *isolated == Isolated::Serve { "serve" } else { "refuse" }),
        fact("databases", databases),
    ];
    facts.extend(of_auth(auth));
    facts.extend([
        fact("auto-rebalance", on_off(*auto_rebalance)),
        fact("min-acks", min_acks),
        fact("min-acks-timeout", time(*min_acks_ms)),
        fact("read-from", from.name()),
        fact("max-lag", limit_of_time(*max_lag_ms)),
        fact("read-your-writes", on_off(*own_writes)),
        fact("read-confirmed", on_off(*confirmed)),
        fact("clients-max", limit((*clients_max).into())),
        fact("ops-max", limit((*ops_max).into())),
        fact("bytes-max", limit(*bytes_max)),
        fact("scripts", on_off(!scripts_off)),
        // None: it is not set, so that the default applies.
        fact("script-loads-max", limit((*script_loads_max).into())),
        fact("errors", if *errors_detailed { "detailed" } else { "short" }),
        fact("blocked-unknown", if *blocked_errors { "error" } else { "close" }),
        fact("server-commands", on_off(*server_commands)),
        fact("debug-commands", on_off(*debug_commands)),
        fact("redis-version", redis_version),
        fact("idle-timeout", limit_of_time(*idle_ms)),
    ]);
    facts
}

/// All scripts of a product.
pub(super) fn of_scripts(catalogue: &ScriptCatalogue) -> Facts {
    vec![fact("scripts", catalogue.scripts().len()), fact("bytes", catalogue.script_bytes())]
}

/// The libraries of a product, and when they changed.
pub(super) fn of_libraries(catalogue: &ScriptCatalogue) -> Facts {
    let changed = Some(catalogue.libraries_at.0).filter(|at| *at != 0);
    vec![
        fact("libraries", catalogue.libraries().len()),
        fact("bytes", catalogue.library_bytes()),
        fact("changed", changed.map_or_else(none, |at| format!("entry {at}"))),
    ]
}

/// A script or a library, without its text.
pub(super) fn of_loaded(loaded: &Loaded) -> Facts {
    vec![fact("bytes", loaded.text.len()), fact("digest", ScriptDigest::of(&loaded.text))]
}

fn of_auth(auth: &ProductAuth) -> Facts {
    let ProductAuth { credentials, version: _, former } = auth;
    let mut facts = of_credentials(credentials.as_ref(), "username", "password");
    facts.push(password("former-password", former.as_ref().map(|former| &former.credentials)));
    facts
}

fn of_credentials(credentials: Option<&Credentials>, user: &'static str, secret: &'static str) -> Facts {
    let name = credentials.and_then(|c| c.username.clone()).unwrap_or_else(none);
    vec![fact(user, name), password(secret, credentials)]
}

fn password(name: &'static str, credentials: Option<&Credentials>) -> Fact {
    let secret = credentials.map(|c| c.password.clone());
    Fact { name, value: if secret.is_some() { "set".to_owned() } else { none() }, secret }
}

/// Everything that an operator sets of a group.
pub(super) fn of_group(group: &Group) -> Facts {
    // A new field must be considered here.
    let Group {
        id: _,
        servers,
        credentials,
        former,
        data_user,
        epoch: _,
        given_away: _,
        sweep: _,
        options,
        replid: _,
        run_id: _,
        restarted_with: _,
        required_offset: _,
        ejection: _,
    } = group;
    let GroupOptions { down_after_ms, maintenance, eject_after_ms, impaired } = options;
    let servers: Vec<&str> = servers.iter().map(|server| server.addr.as_str()).collect();
    let mut facts = vec![fact("servers", servers.join(" "))];
    facts.extend(of_credentials(credentials.as_ref(), "username", "password"));
    facts.push(match former {
        // The servers accepted every password until then.
        Some(FormerControlUser { credentials: None, .. }) => fact("former-password", "any"),
        Some(FormerControlUser { credentials, .. }) => password("former-password", credentials.as_ref()),
        None => password("former-password", None),
    });
    facts.extend(of_credentials(data_user.as_ref().map(|user| &user.credentials), "data-user", "data-password"));
    facts.extend([
        fact("down-after", time(*down_after_ms)),
        fact("eject-after", limit_of_time(*eject_after_ms)),
        fact("maintenance", on_off(*maintenance)),
    ]);
    facts.extend(impaired.named().map(|(name, ms)| fact(name, limit_of_time(ms))));
    facts
}

/// What the log knows of the primary of a group, and of its replacement.
pub(super) fn of_primary(state: &ClusterState, product: &Product, group: &Group) -> Facts {
    let promotion = state.promotion_of(product.id, group.id);
    let hold = promotion.and_then(|promotion| state.promotion_hold(promotion.id));
    let diverged: Vec<&str> = group.servers.iter().filter(|s| s.diverged).map(|s| s.addr.as_str()).collect();
    vec![
        fact("primary", group.servers.first().map_or(NONE, |server| server.addr.as_str())),
        fact("promotion", promotion.map_or_else(none, |p| format!("{} to {}", p.id, p.to))),
        fact("hold", number(hold.map(|hold| hold.0))),
        fact("diverged", if diverged.is_empty() { none() } else { diverged.join(" ") }),
        fact("replication-id", known(&group.replid)),
        fact("run-id", known(&group.run_id)),
    ]
}

/// Where the slots of a group are, and what of them is left at it.
pub(super) fn of_slots_of(product: &Product, group: &Group) -> Facts {
    let ejected = group.ejection.as_ref().map_or_else(none, |ejection| format!("{} slots", ejection.slots.len()));
    let sweep = group.sweep.as_ref();
    vec![
        fact("slots", product.owned(group.id).len()),
        fact("ejected", ejected),
        fact("given-away", format!("{} slots", group.given_away.len())),
        fact("sweep", sweep.map_or_else(none, |sweep| format!("run {} of {} slots", sweep.run.run, sweep.slots.len()))),
    ]
}

pub(super) fn of_server(server: &Server) -> Facts {
    let Server { addr: _, run_id: _, keys_when_added: _, priority, zone, diverged: _ } = server;
    vec![fact("priority", priority), fact("zone", known(zone))]
}

/// Who owns slots, and what is being done with them.
pub(super) fn of_slots(state: &ClusterState, product: &Product, slots: &BTreeSet<SlotId>) -> Facts {
    let concerns = |others: &BTreeSet<SlotId>| slots.iter().any(|slot| others.contains(slot));
    let assignment = state.assignments.values().find(|a| a.product == product.id && concerns(&a.slots));
    let migration = state.migrations.values().find(|m| m.product == product.id && concerns(&m.slots));
    let hold = assignment.and_then(|a| hold_of(state, Cause::Assignment(a.id)));
    let to = |to: Option<GroupId>| to.map_or_else(|| "no owner".to_owned(), |id| format!("group {id}"));
    vec![
        fact("owner", owners(product, slots)),
        fact("assignment", assignment.map_or_else(none, |a| format!("{} to {}", a.id, to(a.to)))),
        fact("migration", migration.map_or_else(none, |m| format!("{} to {}", m.id, to(Some(m.to))))),
        fact("hold", number(hold.map(|hold| hold.0))),
    ]
}

pub(super) fn of_migration(state: &ClusterState, migration: &Migration) -> Facts {
    let Limits { keys_per_second, bytes_per_second, hold_ms_max } = migration.options.limits;
    let hold_max = if hold_ms_max == 0 { "the cluster's".to_owned() } else { time(hold_ms_max) };
    let (run, compared) = (migration.run.as_ref(), migration.verified);
    vec![
        fact("phase", migration.phase.name()),
        fact("owner", state.products.get(&migration.product).map_or_else(none, |p| owners(p, &migration.slots))),
        fact("attempt", migration.attempt),
        fact("run", run.map_or_else(none, |run| format!("{} by node {}", run.run, run.node))),
        fact("compared", compared.map_or_else(none, |c| format!("{} keys ({} differ)", c.keys, c.different))),
        fact("keys-per-second", limit(keys_per_second)),
        fact("bytes-per-second", limit(bytes_per_second)),
        fact("hold-max", hold_max),
    ]
}

pub(super) fn of_ended_migration(ended: &EndedMigration) -> Facts {
    vec![fact("phase", ended.end.name())]
}

fn hold_of(state: &ClusterState, cause: Cause) -> Option<HoldId> {
    state.holds.values().find(|hold| hold.cause == cause).map(|hold| hold.id)
}

/// The owners of slots with the number of slots of each: "group 1 (512 slots) none (1 slot)".
pub(super) fn owners(product: &Product, slots: &BTreeSet<SlotId>) -> String {
    let mut counts: BTreeMap<Option<GroupId>, usize> = BTreeMap::new();
    for SlotState { owner, .. } in slots.iter().filter_map(|slot| product.slots.get(usize::from(slot.0))) {
        *counts.entry(*owner).or_default() += 1;
    }
    let one = |(owner, count): (Option<GroupId>, usize)| {
        let owner = owner.map_or_else(none, |id| format!("group {id}"));
        format!("{owner} ({count} slot{})", if count == 1 { "" } else { "s" })
    };
    counts.into_iter().map(one).collect::<Vec<_>>().join(" ")
}

fn ids<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let nodes: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
    if nodes.is_empty() { none() } else { nodes.join(" ") }
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Auto => "auto",
        Role::Voter => "voter",
        Role::Learner => "learner",
    }
}

const fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Codis => "codis",
        Layout::Redis => "redis",
    }
}

fn none() -> String {
    NONE.to_owned()
}

fn known(text: &str) -> String {
    if text.is_empty() { none() } else { text.to_owned() }
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(none, |n| n.to_string())
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn limit(n: u64) -> String {
    number(Some(n).filter(|n| *n != 0))
}

/// Milliseconds as the command line has them.
fn time(ms: u32) -> String {
    if ms != 0 && ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn limit_of_time(ms: u32) -> String {
    if ms == 0 { "off".to_owned() } else { time(ms) }
}
