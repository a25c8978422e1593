//! `rosterctl doctor`.

use crate::doctor::{Check, Light};
use crate::page::{Look, Page, Style};

/// One line for each answer, with the next step below where there is one.
pub(crate) fn doctor(checks: &[Check], look: Look) -> String {
    let mut page = Page::new(look);
    for check in checks {
        let (style, word) = match check.light {
            Light::Green => (Style::Good, "green "),
            Light::Yellow => (Style::Warn, "yellow"),
            Light::Red => (Style::Bad, "red   "),
        };
        let lead = format!("{word} {:<8} ", check.check);
        page.hang(&lead, style, &check.found, Style::Plain);
        if let Some(next) = &check.next {
            page.hang(&format!("{:<16}next: ", ""), Style::Faint, next, Style::Plain);
        }
    }
    let number = |light| checks.iter().filter(|check| check.light == light).count();
    page.gap();
    page.para(
        Style::Strong,
        &format!(
            "{} green, {} yellow, {} red.",
            number(Light::Green),
            number(Light::Yellow),
            number(Light::Red)
        ),
    );
    page.finish()
}
