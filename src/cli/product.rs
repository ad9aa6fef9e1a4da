//! `pontoon product`: products (tenants).
//! Knows nothing of which names and ports are valid; nodes check that.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{
    Remote, change,
    client::Client,
    duration,
    error::{CliError, ErrorCode, failed},
    output,
    product_show::{self, acks, password_of, reads, rules},
    setting,
};
use crate::{
    config::secret_file,
    wire::pb::admin::{
        CreateProductRequest, Isolated, Layout, ListProductsRequest, Mode, Product, ReadFrom, RemoveProductRequest,
        SetProductRequest,
    },
};

/// `pontoon product ...`
#[derive(Debug, Subcommand)]
pub enum ProductCommand {
    /// List the products
    Ls,
    /// Show everything about one product
    Show {
        /// Its name
        name: String,
    },
    /// Make a product
    Create {
        /// Its name: 1 to 64 of A-Z a-z 0-9 _ . -
        name: String,
        /// Its port; a node listens on it plus the node's port offset
        #[arg(long)]
        port: u16,
        /// How keys become slots: codis (crc32 mod 1024) or redis (crc16 mod 16384)
        #[arg(long, value_enum, default_value = "codis")]
        layout: LayoutArg,
        /// store: keeps every acknowledged write; cache: prefers availability
        #[arg(long, value_enum, default_value = "store")]
        mode: ModeArg,
        /// What a node without a lease does with requests [default: refuse in mode store, serve in mode cache]
        #[arg(long, value_enum)]
        isolated: Option<IsolatedArg>,
        /// Number of databases
        #[arg(long, default_value_t = 16)]
        databases: u32,
        /// User name of the clients; without one they authenticate with the password alone
        #[arg(long, requires = "password_file")]
        username: Option<String>,
        /// File with the clients' password; - is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Make it also if scripts of another product's clients can reach its servers
        #[arg(long)]
        accept_shared_risk: bool,
    },
    /// Change a product: port=P, databases=N, username=U, password= (removes it), former-password= (ends the time in
    /// which two passwords are valid, see --keep-sessions), auto-rebalance=on|off,
    /// min-acks=N (replicas that must have a write; 0: off), min-acks-timeout=TIME
    ///
    /// What its clients may do on each node: clients-max=N, ops-max=N (requests per second), bytes-max=SIZE (of requests
    /// and replies per second), each 0 for no limit; scripts=on|off; errors=short|detailed (detailed: they name servers);
    /// blocked-unknown=close|error (what happens to a client whose blocked call may have taken an element that is lost);
    /// server-commands=on|off (whether they may ask single servers: PONTOON ON); debug-commands=on|off (whether DEBUG and
    /// CONFIG SET reach the servers, for tests); redis-version=7.2.4|servers (what HELLO and INFO tell them);
    /// idle-timeout=5m|off (a client without a request for this time is closed)
    ///
    /// Where reads go: read-from=primary|prefer-replica|replica|nearest, max-lag=1s (a replica that is further behind
    /// serves no reads; 0: no limit), read-your-writes=on|off (a session sees its own writes), read-confirmed=on|off (with
    /// min-acks: a read waits for replicas, too)
    Set {
        /// Its name
        name: String,
        /// What to change
        #[arg(value_name = "KEY=VALUE", required_unless_present = "password_file")]
        settings: Vec<String>,
        /// File with the clients' new password; - is standard input. Clients that logged in with another are closed
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Keep the password until now valid beside the new one, and the clients that logged in with it connected
        #[arg(long)]
        keep_sessions: bool,
        /// Also if every write of a group would fail (min-acks), or keys could no longer be reached (databases)
        #[arg(long)]
        force: bool,
    },
    /// Remove a product that has no groups, or with its groups and slots
    Remove {
        /// Its name
        name: String,
        /// Remove its groups, too: their slots are released, and their keys stay on the servers, unreachable
        #[arg(long)]
        abandon_data: bool,
    },
}

/// How keys become slots.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LayoutArg {
    /// The 1024 slots of Codis.
    Codis,
    /// The 16384 slots of Redis Cluster.
    Redis,
}

/// What a product is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeArg {
    /// Data is kept.
    Store,
    /// Data may be lost.
    Cache,
}

/// What a node without a lease does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum IsolatedArg {
    /// Refuses requests.
    Refuse,
    /// Keeps serving.
    Serve,
}

impl ProductCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls | Self::Show { .. })
    }
}

pub(super) async fn run(command: ProductCommand, remote: &Remote) -> Result<(), CliError> {
    let check = "pontoon product ls";
    let made = match command {
        ProductCommand::Ls => return list(remote).await,
        ProductCommand::Show { name } => return show(&name, remote).await,
        ProductCommand::Create {
            name,
            port,
            layout,
            mode,
            isolated,
            databases,
            username,
            password_file,
            accept_shared_risk,
        } => {
            let wanted = CreateProductRequest {
                name,
                port: port.into(),
                layout: match layout {
                    LayoutArg::Codis => Layout::Codis.into(),
                    LayoutArg::Redis => Layout::Redis.into(),
                },
                mode: match mode {
                    ModeArg::Store => Mode::Store.into(),
                    ModeArg::Cache => Mode::Cache.into(),
                },
                isolated: match isolated {
                    None => Isolated::Unspecified.into(),
                    Some(IsolatedArg::Refuse) => Isolated::Refuse.into(),
                    Some(IsolatedArg::Serve) => Isolated::Serve.into(),
                },
                databases,
                username: username.unwrap_or_default(),
                password: password(password_file)?.unwrap_or_default(),
                options: None,
                accept_shared_risk,
            };
            let call = |mut c: Client, options| {
                let request = CreateProductRequest { options: Some(options), ..wanted.clone() };
                async move { c.create_product(request).await }
            };
            change::run(remote, check, call).await
        }
        ProductCommand::Set { name, settings, password_file, keep_sessions, force } => {
            let mut wanted = parse(name, &settings).map_err(CliError::Usage)?;
            wanted.keep_sessions = keep_sessions;
            wanted.force = force;
            if let Some(text) = password(password_file)? {
                wanted.password = Some(text);
            }
            let call = |mut c: Client, options| {
                let request = SetProductRequest { options: Some(options), ..wanted.clone() };
                async move { c.set_product(request).await }
            };
            change::run(remote, check, call).await
        }
        ProductCommand::Remove { name, abandon_data } => {
            let call = |mut c: Client, options| {
                let request = RemoveProductRequest { name: name.clone(), options: Some(options), abandon_data };
                async move { c.remove_product(request).await }
            };
            change::run(remote, check, call).await
        }
    };
    made.map(drop)
}

/// The password in a file, if one is named.
pub(super) fn password(file: Option<PathBuf>) -> Result<Option<String>, CliError> {
    let Some(path) = file else { return Ok(None) };
    secret_file::password(&path).map(|secret| Some(secret.reveal().to_owned())).map_err(failed)
}

fn parse(name: String, settings: &[String]) -> Result<SetProductRequest, String> {
    let mut wanted = SetProductRequest { name, ..SetProductRequest::default() };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "port" => {
                wanted.port = Some(
                    value.parse::<u16>().map_err(|_| format!("port: 1 to 65535 is expected, not '{value}'"))?.into(),
                )
            }
            "databases" => {
                wanted.databases =
                    Some(value.parse().map_err(|_| format!("databases: 1 to 1024 is expected, not '{value}'"))?)
            }
            "auto-rebalance" => wanted.auto_rebalance = Some(setting::on_off(key, value)?),
            "min-acks" => wanted.min_acks = Some(setting::limit(key, value, "0 (off) to 15")?),
            "min-acks-timeout" => {
                let within = duration::parse(value).map_err(|why| format!("min-acks-timeout: {why}"))?;
                wanted.min_acks_timeout_ms = Some(within.as_millis().try_into().unwrap_or(u32::MAX))
            }
            "read-from" => wanted.read_from = Some(read_from(value)?.into()),
            "max-lag" => wanted.max_lag_ms = Some(max_lag(value)?),
            "read-your-writes" => wanted.read_your_writes = Some(setting::on_off(key, value)?),
            "clients-max" => wanted.clients_max = Some(setting::limit(key, value, "0 (off) to 1000000")?),
            "ops-max" => wanted.ops_max = Some(setting::limit(key, value, "0 (off) or a number")?),
            "bytes-max" => wanted.bytes_max = Some(size(key, value)?),
            "errors" => {
                wanted.errors_detailed = Some(match value {
                    "short" => false,
                    "detailed" => true,
                    _ => return Err(format!("errors: short or detailed is expected, not '{value}'")),
                })
            }
            "blocked-unknown" => {
                wanted.blocked_errors = Some(match value {
                    "close" => false,
                    "error" => true,
                    _ => return Err(format!("blocked-unknown: close or error is expected, not '{value}'")),
                })
            }
            "server-commands" => wanted.server_commands = Some(setting::on_off(key, value)?),
            "debug-commands" => wanted.debug_commands = Some(setting::on_off(key, value)?),
            "redis-version" => wanted.redis_version = Some(value.to_owned()),
            "script-loads-max" => wanted.script_loads_max = Some(script_loads_max(value)?),
            "scripts" => wanted.scripts_off = Some(!setting::on_off(key, value)?),
            "idle-timeout" => wanted.idle_timeout_ms = Some(idle_timeout(value)?),
            "read-confirmed" => wanted.read_confirmed = Some(setting::on_off(key, value)?),
            "username" => wanted.username = Some(value.to_owned()),
            "password" if value.is_empty() => wanted.password = Some(String::new()),
            "former-password" if value.is_empty() => wanted.remove_former_password = true,
            "former-password" => {
                return Err("former-password= takes no value; it removes the former password".into());
            }
            // Every user of the machine can read arguments, and they stay in the shell's history.
            "password" => {
                return Err(
                    "a password is never an argument; give --password-file FILE, or - for standard input".into()
                );
            }
            "layout" | "mode" | "isolated" => {
                return Err(format!("{key} is fixed when a product is created; create another product"));
            }
            _ => {
                return Err(format!(
                    "'{key}' is not a setting of a product; the settings are port, databases, username, password= (none), \
                     former-password= (removes it), auto-rebalance, min-acks, min-acks-timeout, read-from, max-lag, \
                     read-your-writes, read-confirmed, clients-max, ops-max, bytes-max, scripts, script-loads-max, errors, \
                     blocked-unknown, server-commands, debug-commands, redis-version and idle-timeout"
                ));
            }
        }
    }
    Ok(wanted)
}

fn read_from(value: &str) -> Result<ReadFrom, String> {
    let all = [ReadFrom::Primary, ReadFrom::PreferReplica, ReadFrom::Replica, ReadFrom::Nearest];
    all.into_iter()
        .find(|from| output::name(from) == value)
        .ok_or_else(|| format!("read-from: primary, prefer-replica, replica or nearest is expected, not '{value}'"))
}

/// Bytes: a number, or one with KB, MB or GB.
fn size(key: &str, value: &str) -> Result<u64, String> {
    if setting::is_none(value) {
        return Ok(0);
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &value[digits.len()..] {
        "" | "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => 0,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|_| factor > 0);
    bytes.ok_or_else(|| format!("{key}: 0 (off) or a size such as 10MB is expected, not '{value}'"))
}

/// Scripts within a minute; 0: the default.
fn script_loads_max(value: &str) -> Result<u32, String> {
    match value {
        "default" => Ok(0),
        number => {
            number.parse().map_err(|_| format!("script-loads-max: 1 to 10000 or default is expected, not '{value}'"))
        }
    }
}

/// Milliseconds; 0: never.
fn idle_timeout(value: &str) -> Result<u32, String> {
    if setting::is_none(value) {
        return Ok(0);
    }
    let idle = duration::parse(value).map_err(|e| format!("idle-timeout: {e}; or off"))?;
    u32::try_from(idle.as_millis()).map_err(|e| format!("idle-timeout: {e}"))
}

/// Milliseconds; 0: no limit.
fn max_lag(value: &str) -> Result<u32, String> {
    if setting::is_none(value) {
        return Ok(0);
    }
    let lag = duration::parse(value).map_err(|e| format!("max-lag: {e}; or 0 for no limit"))?;
    u32::try_from(lag.as_millis()).map_err(|e| format!("max-lag: {e}"))
}

/// All products.
pub(super) async fn fetch(remote: &Remote) -> Result<Vec<Product>, CliError> {
    Ok(remote.read(|mut c| async move { c.list_products(ListProductsRequest {}).await }).await?.products)
}

/// The names of the products that a command about servers or groups concerns: the one of `--product`, or all.
pub(super) async fn asked(remote: &Remote) -> Result<Vec<String>, CliError> {
    match &remote.common.product {
        Some(name) => Ok(vec![name.clone()]),
        None => Ok(fetch(remote).await?.into_iter().map(|p| p.name).collect()),
    }
}

async fn show(name: &str, remote: &Remote) -> Result<(), CliError> {
    let missing = || {
        CliError::Refused(ErrorCode::NotFound, format!("there is no product '{name}'; `pontoon product ls` shows all"))
    };
    let found = fetch(remote).await?.into_iter().find(|p| p.name == name).ok_or_else(missing)?;
    if remote.json() {
        return output::print_json(&found);
    }
    output::print_text(&product_show::to_text(&found));
    Ok(())
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let products = fetch(remote).await?;
    if remote.json() {
        return output::print_json(&products);
    }
    output::print_text(&to_table(&products));
    Ok(())
}

fn to_table(products: &[Product]) -> String {
    let rows: Vec<_> = products
        .iter()
        .map(|p| {
            vec![
                p.name.clone(),
                p.port.to_string(),
                output::name(p.layout()),
                output::name(p.mode()),
                output::name(p.isolated()),
                p.databases.to_string(),
                acks(p),
                password_of(p),
                p.group_count.to_string(),
                format!("{} of {}", p.assigned_slot_count, p.slot_count),
                reads(p),
                if p.clients_max == 0 { "-".into() } else { p.clients_max.to_string() },
                rules(p),
            ]
        })
        .collect();
    let headings = [
        "product",
        "port",
        "layout",
        "mode",
        "isolated",
        "databases",
        "min-acks",
        "password",
        "groups",
        "slots assigned",
        "reads from",
        "clients-max",
        "rules",
    ];
    let mut out = output::table(&headings, &rows);
    for p in products {
        for l in &p.listeners {
            out += &format!("{}: {}\n", p.name, product_show::listening(l));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings() {
        let wanted = parse("p".into(), &["port=1".into(), "password=".into()]).unwrap();
        assert_eq!((wanted.port, wanted.password, wanted.databases), (Some(1), Some(String::new()), None));
        let check = |setting: &str, part: &str| {
            let refused = parse("p".into(), &[setting.into()]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        };
        check("password=hunter2", "--password-file");
        check("mode=cache", "fixed");
        check("port=70000", "65535");
        check("auto-rebalance=maybe", "on or off");
        check("min-acks=some", "0 (off) to 15");
        check("min-acks-timeout=soon", "duration");
        check("read-from=moon", "prefer-replica");
        let wanted = parse("p".into(), &["min-acks=1".into(), "min-acks-timeout=500ms".into()]).unwrap();
        assert_eq!((wanted.min_acks, wanted.min_acks_timeout_ms), (Some(1), Some(500)));
        check("read-your-writes=perhaps", "on or off");
        check("max-lag=soon", "max-lag: ");
        for none in ["0", "none", "off"] {
            let keys = ["clients-max", "ops-max", "bytes-max", "idle-timeout", "max-lag", "min-acks"];
            let wanted = parse("p".into(), &keys.map(|key| format!("{key}={none}"))).unwrap();
            assert_eq!((wanted.clients_max, wanted.ops_max, wanted.bytes_max), (Some(0), Some(0), Some(0)), "{none}");
            assert_eq!(
                (wanted.idle_timeout_ms, wanted.max_lag_ms, wanted.min_acks),
                (Some(0), Some(0), Some(0)),
                "{none}"
            );
        }
        assert_eq!(parse("p".into(), &["clients-max=5".into()]).unwrap().clients_max, Some(5));
        let wanted = parse("p".into(), &["ops-max=7".into(), "bytes-max=3MB".into(), "scripts=off".into()]).unwrap();
        assert_eq!((wanted.ops_max, wanted.bytes_max, wanted.scripts_off), (Some(7), Some(3 << 20), Some(true)));
        assert_eq!(parse("p".into(), &["idle-timeout=5m".into()]).unwrap().idle_timeout_ms, Some(300_000));
        for (setting, errors) in [("blocked-unknown=error", true), ("blocked-unknown=close", false)] {
            assert_eq!(parse("p".into(), &[setting.into()]).unwrap().blocked_errors, Some(errors));
        }
        let wanted = parse("p".into(), &["server-commands=on".into(), "redis-version=7.2.4".into()]).unwrap();
        assert_eq!((wanted.server_commands, wanted.redis_version.as_deref()), (Some(true), Some("7.2.4")));
        assert_eq!(parse("p".into(), &["debug-commands=on".into()]).unwrap().debug_commands, Some(true));
        assert_eq!(parse("p".into(), &["idle-timeout=off".into()]).unwrap().idle_timeout_ms, Some(0));
        assert_eq!(parse("p".into(), &["script-loads-max=50".into()]).unwrap().script_loads_max, Some(50));
        assert_eq!(parse("p".into(), &["script-loads-max=default".into()]).unwrap().script_loads_max, Some(0));
        for wrong in [
            "idle-timeout=never",
            "bytes-max=3TB",
            "bytes-max=-1",
            "bytes-max=MB",
            "ops-max=x",
            "scripts=maybe",
            "errors=all",
            "blocked-unknown=nil",
        ] {
            assert!(parse("p".into(), &[wrong.into()]).is_err(), "{wrong}");
        }
        check("clients-max=many", "0 (off) to 1000000");
        check("colour=red", "not a setting");
        let reads = ["read-from=nearest".into(), "max-lag=250ms".into(), "read-your-writes=on".into()];
        let wanted = parse("p".into(), &reads).unwrap();
        assert_eq!(
            (wanted.read_from(), wanted.max_lag_ms, wanted.read_your_writes),
            (ReadFrom::Nearest, Some(250), Some(true))
        );
        assert_eq!(parse("p".into(), &["max-lag=0".into()]).unwrap().max_lag_ms, Some(0));
        check("port", "KEY=VALUE");
        assert!(parse("p".into(), &["former-password=".into()]).unwrap().remove_former_password);
        check("former-password=old", "no value");
    }

    #[test]
    fn a_list_says_that_two_passwords_are_valid() {
        let p = Product { has_password: true, former_password_valid: true, ..Product::default() };
        assert_eq!(password_of(&p), "yes, two are valid");
        assert_eq!(password_of(&Product { username: Some("app".into()), ..p }), "yes, user app, two are valid");
    }

    #[test]
    fn json_does_not_contain_the_listeners() {
        let listeners = vec![crate::wire::pb::admin::Listener { node: 77, ..Default::default() }];
        let product = Product { name: "p".into(), ..Product::default() };
        assert_eq!(serde_json::json!(product), serde_json::json!(Product { listeners, ..product.clone() }));
    }
}
