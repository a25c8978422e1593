//! What is planned, seen from outside: cases by name, and properties over random rosters and machines.

mod cases;
mod derived;
mod homes;
mod machine;
mod properties;
