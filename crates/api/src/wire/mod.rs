//! Docker's JSON documents. Field order, and what is `null`, `[]` or absent, are dockerd's.

pub mod container;
pub mod create;
pub mod image;
pub mod network;
pub mod system;

use serde::{Deserialize, Deserializer};

/// `null` is the same as absent.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// An array, or a single string that stands for an array of one.
pub(crate) fn string_or_list<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        One(String),
    }
    Ok(Option::<Either>::deserialize(d)?.map(|v| match v {
        Either::List(list) => list,
        Either::One(one) => vec![one],
    }))
}

/// Declares a document: every field has its JSON name, and may be `null` or absent.
macro_rules! document {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[$field_meta:meta])* $key:literal => $field:ident : $type:ty, )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        #[allow(missing_docs)]
        pub struct $name {
            $( $(#[$field_meta])* #[serde(rename = $key, deserialize_with = "crate::wire::nullable")] pub $field: $type, )*
        }
    };
}
pub(crate) use document;
