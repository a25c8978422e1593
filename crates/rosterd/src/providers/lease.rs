//! Of several hosts with the same roster, one changes the cluster and Vault: the one that has the Lease.

use identity::{Failure, Worker};
use jiff::Timestamp;
use roster::config::Config;
use roster::lease::{Verdict, verdict};
use roster::plan::Problem;
use roster::provider::Provider;

use super::{failed, kubernetes, problem};
use crate::daemon::Daemon;

/// How often the Lease is looked at, when somebody else writes it between look and write.
const LOOKS: usize = 3;

/// Why this host may change nothing now; nothing when it may. `worker` is the provider's.
pub(super) async fn held_by_another(
    daemon: &Daemon,
    provider: Provider,
    config: &Config,
    worker: &mut Worker,
    has_steps: bool,
) -> Result<Option<String>, Problem> {
    let Some(place) = &config.kubernetes.lease else { return Ok(None) };
    // The cluster's lane sees to it that a host that has it keeps it.
    if provider == Provider::Vault && !has_steps {
        return Ok(None);
    }
    let mut of_its_own;
    let worker = match provider {
        Provider::Kubernetes => worker,
        Provider::Vault => {
            of_its_own = kubernetes::begin(daemon, &config.kubernetes).await?.0;
            &mut of_its_own
        }
    };
    let unknown = |Failure { why, next }| {
        problem("nothing is changed, because it is not known which host does", why, next)
    };
    let broken = |error| failed("nothing is changed, because it is not known which host does", &error);
    let me = host_name()?;
    for _ in 0..LOOKS {
        let seen = worker.lease(place).await.map_err(broken)?.map_err(unknown)?;
        let now = Timestamp::now();
        match verdict(seen.as_ref(), &me, now) {
            Verdict::Ours => return Ok(None),
            Verdict::Theirs { holder, until } => {
                return Ok(Some(format!("{holder} does it, until {until:.0}")));
            }
            Verdict::Take if !has_steps && seen.as_ref().is_none_or(|lease| lease.holder != me) => {
                return Ok(None);
            }
            Verdict::Take => {
                // Who was quicker may be the other lane of this host.
                if worker.take_lease(place, seen, &me, now).await.map_err(broken)?.map_err(unknown)? {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some("other hosts are just about to do it".to_owned()))
}

/// Two machines may have one name, but not one machine id.
fn host_name() -> Result<String, Problem> {
    let unnamed = |why: String| problem("this host has no name of its own", why, "see hostnamectl(1)");
    let name = nix::unistd::gethostname().map_err(|error| unnamed(error.to_string()))?;
    let id = std::fs::read_to_string("/etc/machine-id").map_err(|error| unnamed(error.to_string()))?;
    let id: String = id.trim().chars().take(8).collect();
    Ok(format!("{}_{id}", name.to_string_lossy()))
}
