//! The inputs that are kept.

use std::path::Path;

/// The inputs of one target, by the names of their files.
pub struct Corpus {
    inputs: Vec<(String, Vec<u8>)>,
}

impl Corpus {
    /// Reads a folder.
    ///
    /// # Panics
    /// Panics if the folder cannot be read or is empty: a target without inputs proves nothing.
    pub fn read(folder: &Path) -> Self {
        let at = folder.display();
        let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{at}: {error}"));
        let mut inputs: Vec<_> = files
            .map(|file| {
                let path = file.unwrap_or_else(|error| panic!("{at}: {error}")).path();
                let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                (path.display().to_string(), input)
            })
            .collect();
        assert!(!inputs.is_empty(), "{at} holds no input");
        // A folder lists its files in no order.
        inputs.sort_unstable();
        Self { inputs }
    }

    /// How many there are; at least one.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// One of them.
    pub fn input(&self, number: usize) -> &[u8] {
        &self.inputs[number].1
    }

    /// All of them, each with the name of its file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.inputs.iter().map(|(name, input)| (name.as_str(), input.as_slice()))
    }
}
