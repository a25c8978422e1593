//! A git forge
/// x
#[derive(Debug)]
pub struct Forge;
/// x
#[derive(Debug)]
pub struct Request;
