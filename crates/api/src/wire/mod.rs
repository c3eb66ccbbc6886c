//! Docker's JSON documents. Field order, and what is `null`, `[]` or absent, are dockerd's.

pub mod container;
pub mod create;
pub mod exec;
pub mod image;
pub mod mount;
pub mod network;
pub mod progress;
pub mod registry;
pub mod system;

use serde::{Deserialize, Deserializer};

/// `null` is the same as absent.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// Declares a document: every field has its JSON name, and may be `null` or absent. The name behind the equals sign
/// is the type's in Go, for error texts.
macro_rules! document {
    ($(#[$meta:meta])* pub struct $name:ident = $go:literal { $( $(#[$field_meta:meta])* $key:literal => $field:ident : $type:ty, )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        #[allow(missing_docs)]
        pub struct $name {
            $( $(#[$field_meta])* #[serde(rename = $key, deserialize_with = "crate::wire::nullable")] pub $field: $type, )*
        }

        impl $name {
            /// The JSON names of the fields.
            #[allow(dead_code)] // Not every document is asked for them.
            pub const KEYS: &'static [&'static str] = &[$($key),*];
        }

        impl $crate::json::decode::FromJson for $name {
            fn go_type() -> String {
                $go.to_owned()
            }
            fn from_value(value: serde_json::Value) -> Result<Self, $crate::json::decode::Mismatch> {
                let mut document = Self::default();
                for (key, value) in $crate::json::decode::entries::<Self>(value)? {
                    $( if key.eq_ignore_ascii_case($key) {
                        document.$field = $crate::json::decode::FromJson::from_json(value)
                            .map_err(|e| e.below($key))?;
                        continue;
                    } )*
                }
                Ok(document)
            }
        }
    };
}
pub(crate) use document;
