//! The tree that both front ends build: what a file says, and where it says it.

use std::borrow::Cow;
use std::ops::Range;

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub(super) span: Span,
    pub(super) value: Value<'t>,
}

#[derive(Debug)]
pub(super) enum Value<'t> {
    Null,
    Bool(bool),
    /// A number as it is written, so that `007` stays what it is.
    Number(Cow<'t, str>),
    Text(Cow<'t, str>),
    /// Something neither file has a use for, such as a date; in words.
    Other(&'static str),
    Sequence(Vec<Node<'t>>),
    Mapping(Vec<Entry<'t>>),
    /// What is here was refused and told already: nothing more is said about it.
    Refused,
}

/// A key and what stands under it. Keys may repeat: the reader tells it.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) key_span: Span,
    pub(super) value: Node<'t>,
}
