//! What somebody who left may still have at the providers, for `rosterctl offboard`.

use std::collections::BTreeMap;

use roster::name::OsUser;
use roster::provider::Provider;
use roster::revocation::Left;

use super::next;
use crate::page::{Look, Page, Style};

/// Before the removal.
pub(crate) fn left_before(left: &Left) -> String {
    match left {
        Left::Gone => "gone".into(),
        Left::Kept => "kept by the cut (`revoke_on_cut = false`); they go with this removal".into(),
        Left::Pending { why: None } => "may be left; they go with the next run there".into(),
        Left::Pending { why: Some(why) } => format!("may be left, and go when they can be taken: {why}"),
    }
}

/// After it: only what is not over.
pub(crate) fn left_after(user: &OsUser, rights: &BTreeMap<Provider, Left>, look: Look) -> String {
    let mut page = Page::new(look);
    for (provider, left) in rights {
        let text = match left {
            Left::Gone => continue,
            Left::Kept | Left::Pending { why: None } => {
                format!("what {user} had in {provider} goes with the run there that has begun")
            }
            Left::Pending { why: Some(why) } => {
                format!("what {user} had in {provider} may be left, and goes when it can be taken: {why}")
            }
        };
        page.hang("! ", Style::Warn, &text, Style::Plain);
        next(
            &mut page,
            2,
            &format!("`rosterctl status --provider {provider}` names {user} until it is gone"),
        );
    }
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{LOOK, user};
    use super::*;

    #[test]
    fn what_may_be_left_elsewhere_is_said_before_and_after_invariant_8() {
        let why = "the cluster cannot be read, so nothing is done there: nobody answers";
        let all =
            [Left::Gone, Left::Kept, Left::Pending { why: None }, Left::Pending { why: Some(why.into()) }];
        let before: Vec<String> = all.iter().map(left_before).collect();
        insta::assert_snapshot!(before.join("\n"), @"
        gone
        kept by the cut (`revoke_on_cut = false`); they go with this removal
        may be left; they go with the next run there
        may be left, and go when they can be taken: the cluster cannot be read, so nothing is done there: nobody answers
        ");
        let after = |kubernetes: &Left, vault: &Left| {
            let rights = [(Provider::Kubernetes, kubernetes.clone()), (Provider::Vault, vault.clone())];
            left_after(&user("carol"), &rights.into(), LOOK)
        };
        assert_eq!(after(&all[0], &all[0]), "");
        insta::assert_snapshot!(after(&all[3], &all[2]), @"
        ! what carol had in kubernetes may be left, and goes when it can be taken: the
          cluster cannot be read, so nothing is done there: nobody answers
          next: `rosterctl status --provider kubernetes` names carol until it is gone
        ! what carol had in vault goes with the run there that has begun
          next: `rosterctl status --provider vault` names carol until it is gone
        ");
    }
}
