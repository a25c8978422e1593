//! The tree that both front ends build: what a file says, and where it says it. Edits of the text work on it too.

use std::borrow::Cow;
use std::ops::Range;

/// A place in the text, in bytes.
pub(crate) type Span = Range<usize>;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node<'t> {
    /// Of a collection only its first token.
    pub(crate) span: Span,
    /// Where all of it ends.
    pub(crate) end: usize,
    pub(crate) value: Value<'t>,
}

#[derive(Debug)]
pub(crate) enum Value<'t> {
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
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) key_span: Span,
    pub(crate) value: Node<'t>,
}
