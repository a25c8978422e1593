//! What one person can reach, for `rosterctl access`: looks at the machine and at every configured provider, and changes
//! nothing.

use std::rc::Rc;

use roster::access::{self, Access, Machine, Place};
use roster::name::OsUser;
use roster::plan::Problem;
use roster::provider::Provider;

use crate::daemon::Daemon;
use crate::providers;
use crate::run;
use crate::services;

pub(crate) async fn of(daemon: &Rc<Daemon>, user: &OsUser) -> Result<Access, Problem> {
    let Some(in_force) = daemon.in_force() else {
        return Ok(Access { user: user.clone(), tier: None, cut: None, removed: None, places: Vec::new() });
    };
    let host = run::plan_host(daemon, &in_force).await?;
    let ledger = daemon.ledger();
    let units = services::observe(&host.desired, &ledger, &host.observed).await;
    let machine = Machine {
        roster: &in_force.roster,
        config: &in_force.config,
        desired: &host.desired,
        ledger: &ledger,
        observed: &host.observed,
        units: units.as_ref().map_err(String::as_str),
    };
    let mut places = vec![access::on_the_machine(user, &machine)];
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
    let cut = ledger.cut.get(user).copied().filter(|_| tier.is_none());
    let removed = ledger.removed.get(user).map(|removed| removed.since).filter(|_| tier.is_none());
    Ok(Access { user: user.clone(), tier, cut, removed, places })
}
