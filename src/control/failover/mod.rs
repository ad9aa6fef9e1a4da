//! How groups survive the loss of a primary: promotions, and the ejection of groups that have no replica to promote.
//! Knows nothing of migrations.

pub mod ejections;
pub mod group_name;
pub mod groups;
mod notes;
pub mod promotion;
