//! What can go wrong in a store, whichever adapter it is.

/// Why the store could not read or write.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds the data directory.
    #[error("`{path}` is held by another process: stop it, or choose another data_dir")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The data was written by a newer release.
    #[error(
        "`{what}` was written in version {found}, this release reads up to {known}: use the newer release"
    )]
    Newer {
        /// Which value or store.
        what: String,
        /// Its version.
        found: u32,
        /// The newest version that this release reads.
        known: u32,
    },
    /// What was to be written has no form in which it can be; nothing was written.
    #[error("cannot be stored: {0}")]
    Unstorable(String),
    /// The data cannot be read back.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// There is no room left; writes go on when there is.
    #[error("no space is left for the store: {0}")]
    Full(String),
    /// The file system takes no writes; they go on when it does.
    #[error("the store's disk is read-only: {0}")]
    ReadOnly(String),
    /// The operating system refused a read or a write.
    #[error("store failed: {0}")]
    Io(String),
    /// Another backup is being made.
    #[error("another backup is under way: try again when it has ended")]
    BackupUnderWay,
    /// More was written while a backup was made than can be noted for it.
    #[error(
        "the backup was too slow: more than {most} rows were written meanwhile; try again when less is written, or write it to a faster disk"
    )]
    BackupOvertaken {
        /// Most rows that are noted.
        most: usize,
    },
    /// The store has been shut down, or a failed write closed it for writing.
    #[error("the store takes no writes: {0}")]
    Closed(String),
}
