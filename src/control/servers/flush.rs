//! Empties a server: FLUSHALL over the leader's control connection, with its process checked before and after.
//! Knows nothing of why a server is emptied.

use tokio::time::Instant;
use tracing::info;

use super::fence::{ControlTarget, Fence, FenceError};
use crate::redis::{Client, ReplicationStatus};

impl Fence {
    /// Deletes all keys of a primary (`FLUSHALL`), if it is still this process and `check` succeeds just before.
    ///
    /// # Errors
    /// See [`FenceError`]. Only after [`FenceError::Refused`] it is certain that no key was deleted.
    pub async fn flush(
        &self,
        at: &ControlTarget,
        run_id: &str,
        check: &(dyn Fn() -> Result<(), String> + Send + Sync),
        deadline: Instant,
    ) -> Result<(), FenceError> {
        self.with(at, deadline, async |client| flush(client, run_id, check, deadline).await).await
    }
}

async fn flush(
    client: &mut Client,
    run_id: &str,
    check: &(dyn Fn() -> Result<(), String> + Send + Sync),
    deadline: Instant,
) -> Result<(), FenceError> {
    let addr = client.addr().clone();
    let refused = |why: String| FenceError::Refused { addr: addr.clone(), why };
    let before = ReplicationStatus::ask(client, deadline).await?;
    same_primary(&before, run_id).map_err(refused)?;
    check().map_err(|why| FenceError::Refused { addr: addr.clone(), why })?;
    // In the background: the server answers while it frees large keys.
    client.ask(&[b"FLUSHALL", b"ASYNC"], deadline).await?;
    let after = ReplicationStatus::ask(client, deadline).await?;
    // Not `Refused`: it may have been emptied.
    same_primary(&after, run_id)
        .map_err(|why| FenceError::Unexpected { addr: addr.clone(), why: format!("was sent FLUSHALL, but {why}") })?;
    if after.keys > 0 {
        let why = format!("has {} keys after FLUSHALL: another client writes to it", after.keys);
        return Err(FenceError::Unexpected { addr, why });
    }
    info!(%addr, keys = before.keys, "a primary was emptied");
    Ok(())
}

/// Whether this is the process with this `run_id`, as a primary that is ready.
///
/// # Errors
/// Why it is not, as text for the operator; its subject is the server ("it is loading its data").
pub fn same_primary(replication_status: &ReplicationStatus, run_id: &str) -> Result<(), String> {
    if replication_status.run_id != run_id {
        return Err("it was restarted since it was probed".into());
    }
    if replication_status.loading {
        return Err("it is loading its data".into());
    }
    match &replication_status.follows {
        None => Ok(()),
        Some((host, port)) => Err(format!("it is a replica of {host}:{port}")),
    }
}
