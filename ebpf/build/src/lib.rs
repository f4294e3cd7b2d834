//! TODO index
