//! Desired data path of the services.
