//! Replies of servers outside the hot path: INFO, CLIENT LIST, ROLE, COMMAND GETKEYS and SCAN.

use bytes::Bytes;
use fastrand::Rng;
use pontoon::{
    mover::io::scan::{KeyPage, bulks, text},
    redis::{ClientListEntry, Info, ReplicationStatus, Reply, Role, frame::FrameScan},
    resp::{reply::ReplyScanner, write},
};

use super::{
    fuzzer::{Target, fuzz},
    resp::{TOKENS, cuts},
};

/// Fragments of INFO and CLIENT LIST.
const FIELDS: &[&[u8]] = &[
    b"# Server\r\n",
    b"role:master\r\n",
    b"role:slave\r\n",
    b"master_host:h\r\n",
    b"master_port:65536\r\n",
    b"db0:keys=18446744073709551615,expires=1\r\n",
    b"db4294967296:keys=1\r\n",
    b"master_repl_offset:-1\r\n",
    b"second_repl_offset:0\r\n",
    b"redis_version:7\r\n",
    b":",
    b"=",
    b" ",
    b"\r\n",
    b"\r",
    b"\xff\xfe",
    b"id=",
    b" name=",
    b"id=18446744073709551616",
];

#[test]
fn info() {
    let report = fuzz(&Target::new("info", FIELDS).input_max(1500), |bytes, _| check_info(bytes));
    assert!(report.shapes > 40, "{report:?}: the mutations reach little");
}

fn check_info(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let info = Info::parse(&text);
    let written: String = info.sections.iter().map(|title| format!("# {title}\r\n")).collect::<String>()
        + &info.fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect::<String>();
    if Info::parse(&written) != info {
        return Err(format!("{info:?} written again is {:?}", Info::parse(&written)));
    }
    let (keys, expires) = (info.keyspace(), info.expires());
    let _: u64 = keys.values().chain(expires.values()).sum();
    let status = ReplicationStatus::parse(&info);
    if let Some(status) = &status {
        let primary = info.get("role") == Some("master");
        if primary != status.follows.is_none() {
            return Err(format!("{status:?} of a server with role {:?}", info.get("role")));
        }
    }
    let counts = [info.sections.len(), info.fields.len(), keys.len(), expires.len()].map(|n| n.min(3));
    let status = status.map(|s| (s.follows.is_some(), s.link_up, s.loading, s.former_offset.is_some()));
    Ok(format!("{counts:?} {} {status:?}", info.version().is_some()))
}

#[test]
fn client_list() {
    let report = fuzz(&Target::new("client_list", FIELDS).input_max(1000), |bytes, _| check_client_list(bytes));
    assert!(report.shapes > 8, "{report:?}: the mutations reach little");
}

fn check_client_list(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let clients = ClientListEntry::parse(&text);
    if clients.len() > text.lines().count() {
        return Err("more connections than lines".into());
    }
    // Closing a run relies on this: a line with an id is never skipped.
    let ids = |line: &&str| {
        line.split(' ').find_map(|part| part.strip_prefix("id=")).is_some_and(|id| id.parse::<u64>().is_ok())
    };
    if clients.len() != text.lines().filter(ids).count() {
        return Err("a line with an id was skipped".into());
    }
    let line = |client: &ClientListEntry| format!("id={} addr=1.2.3.4:5 name={} db=0\n", client.id, client.name);
    let written: String = clients.iter().map(line).collect();
    if ClientListEntry::parse(&written) != clients {
        return Err(format!("{clients:?} written again is {:?}", ClientListEntry::parse(&written)));
    }
    let named = clients.iter().filter(|client| !client.name.is_empty()).count();
    Ok(format!("{} {}", clients.len().min(5), named.min(5)))
}

#[test]
fn answers() {
    let report = fuzz(&Target::new("answer", TOKENS), check_answer);
    assert!(report.shapes > 60, "{report:?}: the mutations reach little");
}

fn check_answer(bytes: &[u8], rng: &mut Rng) -> Result<String, String> {
    let found = FrameScan::default().advance(bytes);
    let mut pieces = FrameScan::default();
    let mut in_pieces = Ok(None);
    for to in cuts(bytes.len(), rng).into_iter().chain([bytes.len()]) {
        in_pieces = pieces.advance(&bytes[..to]);
        if !matches!(in_pieces, Ok(None)) {
            break;
        }
    }
    if in_pieces != found {
        return Err(format!("at once {found:?}, in pieces {in_pieces:?}"));
    }
    let len = match found {
        Ok(Some(len)) => len,
        Ok(None) => return Ok("incomplete".into()),
        Err(why) => return Ok(why.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()),
    };
    let whole = Bytes::copy_from_slice(&bytes[..len]);
    let reply = Reply::decode(&whole).map_err(|why| format!("a complete reply is not decoded: {why}"))?;
    let role = Role::parse(&reply);
    if let Some(role) = &role {
        let written = Bytes::from(role_reply(role));
        let again = Reply::decode(&written).ok().and_then(|reply| Role::parse(&reply));
        if again.as_ref() != Some(role) {
            return Err(format!("{role:?} written again is {again:?}"));
        }
    }
    // COMMAND GETKEYS and SCAN are read without decoding, after the scanner of the hot path: both ways agree.
    if ReplyScanner::default().scan(&whole) != Ok(Some(len)) {
        return Ok("another scanner refuses it".into());
    }
    let strings = |reply: &Reply| -> Option<Vec<Bytes>> {
        let bulk = |reply: &Reply| if let Reply::Bulk(bytes) = reply { Some(bytes.clone()) } else { None };
        reply.items()?.iter().map(bulk).collect()
    };
    let keys = bulks(&whole);
    if matches!(reply, Reply::Array(_)) && keys != strings(&reply) {
        return Err(format!("COMMAND GETKEYS: {keys:?}, decoded {:?}", strings(&reply)));
    }
    if let Reply::Bulk(decoded) = &reply
        && text(&whole) != Some(decoded)
    {
        return Err("a string has other bytes when it is decoded".into());
    }
    let page = KeyPage::parse(&whole);
    if let Some(page) = &page {
        let decoded = reply.items().and_then(|items| strings(items.get(1)?));
        if decoded.as_ref() != Some(&page.keys) {
            return Err(format!("SCAN: {:?}, decoded {decoded:?}", page.keys));
        }
    }
    let kind = match &reply {
        Reply::Array(items) => format!("array {}", items.len().min(4)),
        other => format!("{other:?}").chars().take(6).collect(),
    };
    let role: Option<String> = role.map(|role| format!("{role:?}").chars().take(9).collect());
    Ok(format!("{kind} {role:?} {:?} {:?}", keys.map(|k| k.len().min(3)), page.map(|p| p.keys.len().min(3))))
}

/// The reply to ROLE of a server with this role.
fn role_reply(role: &Role) -> Vec<u8> {
    let mut out = Vec::new();
    match role {
        Role::Primary { offset, replicas } => {
            write::array(&mut out, 3);
            write::bulk(&mut out, b"master");
            write::int(&mut out, *offset);
            write::array(&mut out, replicas.len());
            for replica in replicas {
                write::array(&mut out, 3);
                write::bulk(&mut out, replica.host.as_bytes());
                write::bulk(&mut out, replica.port.to_string().as_bytes());
                write::bulk(&mut out, replica.offset.to_string().as_bytes());
            }
        }
        Role::Replica { host, port, link, offset } => {
            write::array(&mut out, 5);
            write::bulk(&mut out, b"slave");
            write::bulk(&mut out, host.as_bytes());
            write::int(&mut out, i64::from(*port));
            write::bulk(&mut out, link.as_bytes());
            write::int(&mut out, *offset);
        }
        Role::Sentinel => {
            write::array(&mut out, 1);
            write::bulk(&mut out, b"sentinel");
        }
    }
    out
}
