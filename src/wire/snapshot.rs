//! STAND-IN until branch model has it.
use crate::model::{ids::*, state::ClusterState};
/// stand-in
#[must_use]
pub fn encode_state(s: &ClusterState) -> Vec<u8> {
    let mut v = s.applied.0.to_be_bytes().to_vec();
    v.push(s.settings.voters);
    v.extend(s.settings.hold_ms_max.to_be_bytes());
    v
}
/// stand-in
/// # Errors
/// yes
pub fn decode_state(b: &[u8]) -> Result<ClusterState, String> {
    let mut s = ClusterState {
        applied: Epoch(u64::from_be_bytes(b.get(..8).ok_or("s")?.try_into().map_err(|_| "x")?)),
        ..Default::default()
    };
    s.settings.voters = *b.get(8).ok_or("s")?;
    s.settings.hold_ms_max = u32::from_be_bytes(b.get(9..13).ok_or("s")?.try_into().map_err(|_| "x")?);
    Ok(s)
}
