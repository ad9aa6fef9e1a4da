//! The secret file of a running node, which it reads again on SIGHUP. What it finds is taken over only if it can be used, and
//! if no other node is cut off by it; else the node goes on with the secrets that it has.
//! Decides nothing: `plan::secret_rotation` does.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinSet;
use tracing::{error, info};

use super::reading;
use crate::{
    config::secret_file,
    consensus::Consensus,
    control::leadership::peers::{PeerAddress, Peers},
    model::{cluster_secret::SecretTags, ids::NodeId},
    plan::secret_rotation::{PeerAnswer, may_take_over},
    wire::auth::ClusterSecret,
};

/// How long another node may take to answer. One that is alive answers within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct SecretFile {
    /// Where it is. It stays the same until the node is restarted.
    pub path: PathBuf,
    /// The secrets of this process.
    pub secret: ClusterSecret,
    /// This node.
    pub me: NodeId,
    /// Calls to the other nodes.
    pub peers: Peers,
    /// The log, which names them.
    pub log: Consensus,
}

impl SecretFile {
    /// Reads the file, and takes it over or says why not.
    pub async fn read_again(&self) {
        let refused = self.take_over().await.err();
        if let Some(why) = &refused {
            error!(why, "SIGHUP: the node keeps the cluster secrets that it had");
        }
        self.secret.note_refusal(refused);
    }

    async fn take_over(&self) -> Result<(), String> {
        let path = self.path.clone();
        let secrets = reading::on_a_thread("the secret file", move || secret_file::cluster_secrets(&path)).await?;
        let next = secrets.tags();
        // A node that has the path of a file has secrets.
        let Some(now) = self.secret.report().tags.filter(|now| *now != next) else { return Ok(()) };
        let (answers, silent) = self.ask(&next).await;
        let wait = may_take_over(&now, &next, &answers)
            .map_err(|why| format!("secret file {}: {why}", self.path.display()))?;
        tokio::time::sleep(wait).await;
        self.secret.replace(secrets);
        info!(
            accepted = next.accepted(),
            sends_another = now.sent != next.sent,
            no_answer_from = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            "SIGHUP: the cluster secrets were replaced by those of the secret file"
        );
        Ok(())
    }

    /// Asks all other members, at the same time. Also returns those that gave no answer.
    async fn ask(&self, next: &SecretTags) -> (Vec<(NodeId, PeerAnswer)>, Vec<NodeId>) {
        let state = self.log.state().borrow().clone();
        let mut asking = JoinSet::new();
        for member in state.members.values().filter(|member| member.id != self.me) {
            let (peers, to, next) = (self.peers.clone(), PeerAddress::of(member), *next);
            asking.spawn(async move { (to.id, peers.ask_about_secrets(&to, &next, ANSWER_WITHIN).await) });
        }
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        for (id, answer) in asking.join_all().await {
            match answer {
                Ok(Some(answer)) => answers.push((id, answer)),
                // It has an earlier version, or is dead, or refuses this node already.
                Ok(None) | Err(_) => silent.push(id),
            }
        }
        answers.sort_by_key(|(id, _)| *id);
        silent.sort_unstable();
        (answers, silent)
    }
}
