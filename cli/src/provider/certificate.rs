//! The certificate of a client, and where its key is.

use std::path::PathBuf;

use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::private_file::PrivateFile;

use super::key::{Key, path_of};
use super::settings::{Settings, Wrong};
use crate::failure::{Code, Failure};

/// The most bytes of a file with certificates. Three of them have some 6 KB.
const LONGEST: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct Certificate {
    path: PathBuf,
    key: Key,
}

impl Certificate {
    pub(super) fn parse(settings: &Settings<'_>) -> Result<Option<Self>, Wrong> {
        let (names, key) = ("client_certificate", "client_certificate_key");
        match (settings.text(names)?, settings.text(key)?) {
            (None, None) => Ok(None),
            (Some(path), Some(text)) => {
                let path = path_of(path).ok_or_else(|| {
                    settings.wrong_at(names, "this is not the whole path of a file")
                })?;
                let key = Key::parse(text).map_err(|what| settings.wrong_at(key, what))?;
                Ok(Some(Self { path, key }))
            }
            _ => {
                Err(settings.wrong("client_certificate and client_certificate_key need each other"))
            }
        }
    }

    pub(super) async fn add_to(
        &self,
        client: OAuth2Client,
        allow_prompt: bool,
    ) -> Result<OAuth2Client, Failure> {
        let pem = PrivateFile::new(&self.path, LONGEST).read_trusted()?;
        let pem = pem.ok_or_else(|| {
            let path = self.path.display();
            Failure::new(
                Code::Inaccessible,
                format!("{path} does not exist; correct client_certificate of this profile"),
            )
        })?;
        let key = self.key.read(allow_prompt).await?;
        // What is not text is no certificate, which the client says.
        let pem = String::from_utf8_lossy(&pem);
        client
            .with_client_certificate(&pem, &key)
            .map_err(|error| Failure::usage(error.to_string()))
    }
}
