//! What Authentik's API (version 3) answers, judged without asking it: which page to ask for next, and whether all of it
//! is there. The shell asks; an answer that is not exactly what was asked for ends it, and no members come of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use crate::membership::Member;

/// Members that are asked for at once.
const PAGE: u64 = 100;

/// More than a machine has people. A server that always has a next page must not be asked for ever.
const MOST: u64 = 50_000;

/// The largest answer that is read, in bytes; a page of members is some 200 kB.
pub const LARGEST_ANSWER: usize = 4 << 20;

/// Why the answers give no members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or not what the API answers.
    #[error("the answer is not what Authentik answers: {0}")]
    Shape(String),
    /// No group of that name.
    #[error("there is no group {0:?}")]
    NoGroup(String),
    /// Several groups of that name.
    #[error("there are {1} groups that answer to {0:?}, and which is meant cannot be known")]
    Ambiguous(String, usize),
    /// The pages do not add up: somebody may be missing.
    #[error("the members changed or went missing while they were read: {0}")]
    Partial(String),
    /// Far more than a machine has people.
    #[error("the group has {0} members, more than the {MOST} that are read")]
    TooMany(u64),
}

/// What is asked, below the address of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The path.
    pub path: &'static str,
    /// What follows the `?`, not yet escaped.
    pub query: Vec<(&'static str, String)>,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask this.
    Ask(Ask),
    /// That is everybody.
    Members(Vec<Member>),
}

/// The reading of one group, from the first question to the last answer.
#[derive(Debug, Clone)]
pub struct Reading {
    group: String,
    /// The group's key, when it is known.
    key: Option<String>,
    page: u64,
    count: Option<u64>,
    seen: BTreeSet<u64>,
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Page<T> {
    pagination: Pagination,
    results: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct Pagination {
    /// 0 when there is none.
    next: u64,
    count: u64,
    current: u64,
}

#[derive(Debug, Deserialize)]
struct Group {
    pk: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct User {
    pk: u64,
    username: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    email: Option<String>,
    is_active: bool,
}

impl Reading {
    /// Begins to read the group with exactly this name; the first thing to ask.
    pub fn of(group: &str) -> (Self, Ask) {
        let reading = Reading {
            group: group.to_owned(),
            key: None,
            page: 1,
            count: None,
            seen: BTreeSet::new(),
            members: Vec::new(),
        };
        // The members within the answer are of no use: they come without pages, and large groups without them.
        let query = vec![("name", group.to_owned()), ("include_users", "false".into())];
        (reading, Ask { path: "api/v3/core/groups/", query })
    }

    /// Takes the answer to what was asked last.
    pub fn answer(&mut self, bytes: &[u8]) -> Result<Next, AnswerError> {
        match self.key.clone() {
            None => self.group(bytes),
            Some(key) => self.page(bytes, key),
        }
    }

    fn group(&mut self, bytes: &[u8]) -> Result<Next, AnswerError> {
        let page: Page<Group> = parse(bytes)?;
        if page.pagination.next != 0 || page.pagination.count != page.results.len() as u64 {
            let number = usize::try_from(page.pagination.count).unwrap_or(usize::MAX);
            return Err(AnswerError::Ambiguous(self.group.clone(), number));
        }
        // A server that does not know the filter answers with every group.
        let mut same = page.results.into_iter().filter(|group| group.name == self.group);
        match (same.next(), same.count()) {
            (None, _) => Err(AnswerError::NoGroup(self.group.clone())),
            (Some(group), 0) => {
                self.key = Some(group.pk.clone());
                Ok(Next::Ask(self.ask(group.pk)))
            }
            (Some(_), more) => Err(AnswerError::Ambiguous(self.group.clone(), more + 1)),
        }
    }

    fn page(&mut self, bytes: &[u8], key: String) -> Result<Next, AnswerError> {
        let partial = |why: String| Err(AnswerError::Partial(why));
        let page: Page<User> = parse(bytes)?;
        let Pagination { next, count, current } = page.pagination;
        if count > MOST {
            return Err(AnswerError::TooMany(count));
        }
        if current != self.page {
            return partial(format!("page {current} came for page {}", self.page));
        }
        if self.count.is_some_and(|before| before != count) {
            return partial(format!(
                "there were {} members and then {count}",
                self.count.unwrap_or_default()
            ));
        }
        self.count = Some(count);
        if page.results.is_empty() && next != 0 {
            return partial(format!("page {current} is empty and not the last"));
        }
        for user in page.results {
            if !self.seen.insert(user.pk) {
                return partial(format!("{:?} came twice", user.username));
            }
            let email = user.email.unwrap_or_default();
            self.members.push(Member {
                login: user.username,
                email,
                name: user.name,
                active: user.is_active,
            });
        }
        let read = self.members.len() as u64;
        if read > count {
            return partial(format!("{read} members came of {count}"));
        }
        if next == 0 {
            return match read == count {
                true => Ok(Next::Members(std::mem::take(&mut self.members))),
                false => partial(format!("{read} members came of {count}")),
            };
        }
        if next != self.page + 1 {
            return partial(format!("page {next} is said to follow page {current}"));
        }
        self.page = next;
        Ok(Next::Ask(self.ask(key)))
    }

    fn ask(&self, key: String) -> Ask {
        let query = vec![
            ("groups_by_pk", key),
            ("ordering", "pk".into()),
            ("page", self.page.to_string()),
            ("page_size", PAGE.to_string()),
        ];
        Ask { path: "api/v3/core/users/", query }
    }
}

fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, AnswerError> {
    serde_json::from_slice(bytes).map_err(|error| AnswerError::Shape(error.to_string()))
}
