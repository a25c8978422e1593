//! A block of ours in a text of somebody else's: two lines of comment and what is between them. Every other byte is
//! theirs and stays.

const BEGIN: &str = " >>> rosterd: what is between these two lines is replaced >>>";
const END: &str = " <<< rosterd <<<";

/// What is between the marks; nothing when there is no block. A block whose marks do not fit together is an error, for
/// then nobody knows what is ours.
pub fn find<'t>(text: &'t str, comment: &str) -> Result<Option<&'t str>, String> {
    Ok(place(text, comment)?.map(|place| &text[place.body]))
}

/// The text with this block: in the place of the one it has, or behind everything else.
pub fn put(text: &str, comment: &str, body: &str) -> Result<String, String> {
    let newline = if body.is_empty() || body.ends_with('\n') { "" } else { "\n" };
    let block = format!("{comment}{BEGIN}\n{body}{newline}{comment}{END}\n");
    Ok(match place(text, comment)? {
        Some(place) => format!("{}{block}{}", &text[..place.whole.start], &text[place.whole.end..]),
        None => {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            format!("{text}{gap}{block}")
        }
    })
}

/// What [`find()`] gives for a block that was put.
pub fn body(body: &str) -> String {
    let newline = if body.is_empty() || body.ends_with('\n') { "" } else { "\n" };
    format!("{body}{newline}")
}

struct Place {
    whole: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
}

fn place(text: &str, comment: &str) -> Result<Option<Place>, String> {
    let (mut begin, mut end, mut at) = (None, None, 0);
    for line in text.split_inclusive('\n') {
        let (start, behind) = (at, at + line.len());
        at = behind;
        let Some(mark) = line.trim_end().strip_prefix(comment) else { continue };
        let (place, what) = match mark {
            BEGIN => (&mut begin, "begins"),
            END => (&mut end, "ends"),
            _ => continue,
        };
        if place.replace((start, behind)).is_some() {
            return Err(format!("rosterd's block {what} twice in it"));
        }
    }
    match (begin, end) {
        (None, None) => Ok(None),
        (Some((start, body)), Some((body_end, end))) if body <= body_end => {
            Ok(Some(Place { whole: start..end, body: body..body_end }))
        }
        (Some(_), None) => Err("rosterd's block begins in it and does not end".into()),
        (None, Some(_)) => Err("rosterd's block ends in it and does not begin".into()),
        (Some(_), Some(_)) => Err("rosterd's block ends in it before it begins".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_is_put_behind_and_then_replaced_in_its_place() {
        let first = put("mine\nno newline", "#", "one\n").unwrap();
        insta::assert_snapshot!(first, @"
        mine
        no newline
        # >>> rosterd: what is between these two lines is replaced >>>
        one
        # <<< rosterd <<<
        ");
        let theirs = format!("{first}after\n");
        let second = put(&theirs, "#", "two").unwrap();
        assert_eq!(second, theirs.replace("one", "two"));
        assert_eq!(find(&second, "#").unwrap(), Some(body("two").as_str()));
        assert_eq!(find(&second, "//").unwrap(), None);
    }

    #[test]
    fn a_block_whose_marks_do_not_fit_is_left_alone() {
        let block = put("", "#", "x\n").unwrap();
        let lines: Vec<&str> = block.lines().collect();
        for (broken, why) in [
            (lines[..2].join("\n"), "does not end"),
            (lines[1..].join("\n"), "does not begin"),
            (format!("{}\n{}", lines[2], lines[0]), "before it begins"),
            (block.repeat(2), "twice"),
        ] {
            assert!(find(&broken, "#").unwrap_err().contains(why), "{broken}");
            assert!(put(&broken, "#", "y").is_err());
        }
    }

    proptest! {
        #[test]
        fn every_other_byte_stays_and_twice_is_once_invariant_1(
            before in "([ -~é]{0,9}\r?\n){0,4}", after in "([ -~é]{0,9}\n){0,4}[a-z]{0,3}",
            one in "([a-z {}]{0,9}\n){0,3}", two in "([a-z {}]{0,9}\n?){0,3}",
        ) {
            let text = format!("{}{after}", put(&before, "#", &one).unwrap());
            let new = put(&text, "#", &two).unwrap();
            prop_assert!(new.starts_with(&before) && new.ends_with(&after));
            let two = body(&two);
            prop_assert_eq!(find(&new, "#").unwrap(), Some(two.as_str()));
            prop_assert_eq!(&put(&new, "#", &two).unwrap(), &new);
            prop_assert_eq!(put(&new, "#", &one).unwrap(), text);
        }
    }
}
