//! How groups survive the loss of a primary: promotions, and the ejection of groups that have nobody to promote.
//! Knows nothing of migrations.

pub mod ejections;
pub mod groups;
pub mod promotion;
pub mod waits;
