//! Tests of gangs.
