//! What one person can reach, for `rosterctl access`: looks at the machine and at every configured provider, and changes
//! nothing.

use std::rc::Rc;

use roster::access::{self, Access, Place};
use roster::name::OsUser;
use roster::plan::Problem;
use roster::provider::Provider;

use crate::daemon::Daemon;
use crate::providers;
use crate::run;

pub(crate) async fn of(daemon: &Rc<Daemon>, user: &OsUser) -> Result<Access, Problem> {
    let Some(in_force) = daemon.in_force() else {
        return Ok(Access { user: user.clone(), tier: None, places: Vec::new() });
    };
    let host = run::plan_host(daemon, &in_force).await?;
    let groups = |tier| {
        let policy = in_force.config.tiers.get(&tier);
        policy.map(|policy| policy.groups.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    let mut places =
        vec![access::on_the_machine(user, &in_force.roster, &host.desired, &host.observed, &groups)];
    for provider in Provider::ALL {
        if !providers::is_configured(&in_force.config, provider) {
            continue;
        }
        places.push(match providers::access(daemon, provider, &in_force, user).await {
            Ok(place) => place,
            Err(problem) => Place::unknown(provider.as_str(), format!("{}: {}", problem.what, problem.why)),
        });
    }
    let tier = in_force.roster.users.get(user).map(|person| person.tier);
    Ok(Access { user: user.clone(), tier, places })
}
