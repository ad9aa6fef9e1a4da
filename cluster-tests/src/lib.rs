//! What is checked with more than one part of Pontoon at work: models of the protocol, and clusters of real processes.
//! Knows nothing of how a node does what it does.

pub mod serving_model;
