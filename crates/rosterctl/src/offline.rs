//! stub
use crate::args::Global;
use crate::error::Result;
use crate::out::Out;
use std::path::Path;
pub(crate) fn validate(_: &Global, _: Option<&Path>, _: &Out) -> Result<u8> {
    Ok(0)
}
pub(crate) fn derive(
    _: &Global,
    _: Option<&Path>,
    _: Option<&Path>,
    _: Option<&Path>,
    _: &Out,
) -> Result<u8> {
    Ok(0)
}
