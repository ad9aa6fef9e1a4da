//! STAND-IN until branch model has it.
use crate::model::{change::Change, ids::*, state::Entry};
/// stand-in
#[must_use]
pub fn encode_entry(e: &Entry) -> Vec<u8> {
    let mut out = e.id.0.to_be_bytes().to_vec();
    match &e.change {
        Change::SetCluster { voters, hold_ms_max } => {
            out.extend(format!("S {} {}", voters.unwrap_or(0), hold_ms_max.unwrap_or(0)).bytes())
        }
        Change::Recover { keep } => out.extend(format!("R {keep}").bytes()),
        Change::Bootstrap { members, port } => out.extend(
            format!(
                "B {port} {}",
                members
                    .iter()
                    .map(|m| format!("{} {} {} {} {}", m.id, m.uuid.0, m.admin, m.advertise, m.port_offset))
                    .collect::<Vec<_>>()
                    .join(" ")
            )
            .bytes(),
        ),
        _ => out.extend(b"X"),
    }
    out
}
/// stand-in
/// # Errors
/// yes
pub fn decode_entry(b: &[u8]) -> Result<Entry, String> {
    let id = Uuid(u128::from_be_bytes(b.get(..16).ok_or("short")?.try_into().map_err(|_| "x")?));
    let t = String::from_utf8_lossy(&b[16..]).into_owned();
    let w: Vec<&str> = t.split(' ').collect();
    let change = match w[0] {
        "S" => Change::SetCluster {
            voters: w[1].parse().ok().filter(|v| *v > 0),
            hold_ms_max: w[2].parse().ok().filter(|v| *v > 0),
        },
        "R" => Change::Recover { keep: NodeId(w[1].parse().map_err(|_| "n")?) },
        "B" => Change::Bootstrap {
            port: w[1].parse().map_err(|_| "n")?,
            members: w[2..]
                .chunks(5)
                .map(|c| {
                    Ok::<_, String>(crate::model::change::NewMember {
                        id: NodeId(c[0].parse().map_err(|_| "n")?),
                        uuid: Uuid(c[1].parse().map_err(|_| "n")?),
                        admin: HostPort::parse(c[2])?,
                        advertise: c[3].into(),
                        port_offset: c[4].parse().map_err(|_| "n")?,
                    })
                })
                .collect::<Result<_, _>>()?,
        },
        _ => return Err("unknown".into()),
    };
    Ok(Entry { id, at_ms: 0, change })
}
