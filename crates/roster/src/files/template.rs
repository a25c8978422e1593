//! What differs between people in a text of the configuration: `{{os_user}}`, `{{home}}`, `{{email}}`, `{{login}}` and
//! `{{port.SERVICE}}`. Nothing else can be written between two braces, so that a slip is told when the file is saved.

use std::fmt::Write;

/// A variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variable<'t> {
    /// The account's name.
    OsUser,
    /// The home.
    Home,
    /// The e-mail address.
    Email,
    /// The local part of the login.
    Login,
    /// The person's port of a service.
    Port(&'t str),
}

/// What they can be.
pub(crate) const KNOWN: &str = "`{{os_user}}`, `{{home}}`, `{{email}}`, `{{login}}` and `{{port.SERVICE}}`";

/// What is between braces and no variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown<'t>(pub(crate) &'t str);

enum Part<'t> {
    Text(&'t str),
    Variable(Variable<'t>),
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, Unknown<'_>> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, behind)) = rest.split_once("{{") {
        let shown = behind.split(['\n', '}']).next().unwrap_or_default();
        let (name, after) = behind.split_once("}}").ok_or(Unknown(shown))?;
        let variable = match name {
            "os_user" => Variable::OsUser,
            "home" => Variable::Home,
            "email" => Variable::Email,
            "login" => Variable::Login,
            _ => Variable::Port(name.strip_prefix("port.").ok_or(Unknown(shown))?),
        };
        parts.extend([Part::Text(before), Part::Variable(variable)]);
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// The variables of a text.
pub(crate) fn variables(text: &str) -> Result<Vec<Variable<'_>>, Unknown<'_>> {
    let variable = |part| match part {
        Part::Variable(variable) => Some(variable),
        Part::Text(_) => None,
    };
    Ok(parts(text)?.into_iter().filter_map(variable).collect())
}

/// The text with values in the place of its variables, or the first variable without a value.
pub(crate) fn fill<'t>(
    text: &'t str,
    value: &impl Fn(Variable<'t>) -> Option<String>,
) -> Result<String, Variable<'t>> {
    let mut filled = String::with_capacity(text.len());
    // The parser has seen to it that there is nothing unknown.
    for part in parts(text).unwrap_or_default() {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Variable(variable) => {
                let value = value(variable).ok_or(variable)?;
                // Writing to a String cannot fail.
                let _ = write!(filled, "{value}");
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_and_everything_else_stays() {
        let value = |variable: Variable<'_>| match variable {
            Variable::OsUser => Some("ana".to_owned()),
            Variable::Port("t3") => Some("3773".to_owned()),
            _ => None,
        };
        let text = "${x} {y} {{os_user}}:{{port.t3}} }} é";
        assert_eq!(fill(text, &value).unwrap(), "${x} {y} ana:3773 }} é");
        assert_eq!(fill("{{email}}", &value), Err(Variable::Email));
        assert_eq!(variables("{{usr}} x"), Err(Unknown("usr")));
        assert_eq!(variables("{{os_user\n}}"), Err(Unknown("os_user")));
        assert_eq!(variables("{{ os_user }}"), Err(Unknown(" os_user ")));
        assert_eq!(variables("{{"), Err(Unknown("")));
    }
}
