//! What of a provider could not be read. One cause is told once, however much it concerns: a server that cannot be reached is
//! one thing to mend, not one for each list.

/// Puts together what has the same cause and the same remedy, in the order in which it came.
pub(crate) fn by_cause<'a, T>(
    unread: impl IntoIterator<Item = (T, &'a str, &'a str)>,
) -> Vec<(Vec<T>, &'a str, &'a str)> {
    let mut causes: Vec<(Vec<T>, &str, &str)> = Vec::new();
    for (what, why, next) in unread {
        match causes.iter_mut().find(|cause| (cause.1, cause.2) == (why, next)) {
            Some((all, ..)) => all.push(what),
            None => causes.push((vec![what], why, next)),
        }
    }
    causes
}

/// `Roles, ClusterRoles and Namespaces`.
pub(crate) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_told_once_and_another_remedy_is_another_cause() {
        let unread = [
            ("a", "down", "wait"),
            ("b", "no right", "give it"),
            ("c", "down", "wait"),
            ("d", "down", "look"),
        ];
        let causes = by_cause(unread);
        let expected = [
            (vec!["a", "c"], "down", "wait"),
            (vec!["b"], "no right", "give it"),
            (vec!["d"], "down", "look"),
        ];
        assert_eq!(causes, expected);
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!([0, 1, 2, 3].map(|count| listed(&names[..count])), ["", "a", "a and b", "a, b and c"]);
    }
}
