//! The provider of a bucket, and its settings in the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, Error, ObjectStore, RetryConfig};

use super::DEADLINE;
use super::http::Connector;
use crate::net::server_url::{FORM, is_endpoint};

#[derive(Clone, Copy, Debug)]
pub(super) enum Provider {
    Azure,
    Google,
    S3,
}

impl Provider {
    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::Azure => "az",
            Self::Google => "gs",
            Self::S3 => "s3",
        }
    }

    /// Makes the client of a bucket, with the credentials in the environment. An error says what is wrong
    /// with them, and what to do.
    pub(super) fn open(
        self,
        name: &str,
        endpoint: Option<String>,
        by_proxy: bool,
    ) -> Result<Arc<dyn ObjectStore>, (&'static str, &'static str)> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(1),
                base: 2.,
            },
            max_retries: 3,
            retry_timeout: DEADLINE,
        };
        let checked = |endpoint: Option<String>| match endpoint {
            Some(endpoint) if !is_endpoint(&endpoint) => {
                Err(("its endpoint in the environment is not the URL of a server", FORM))
            }
            endpoint => Ok(endpoint),
        };
        let failed = |error| explain_settings(&error);
        Ok(match self {
            Self::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector { by_proxy });
                // The Azure CLI would be started as a program, and block a thread that runs tasks.
                let builder = builder.with_use_azure_cli(false);
                let kind = builder.get_config_value(&AzureConfigKey::CredentialType);
                if kind.as_deref() == Some("azure_cli") {
                    return Err(("the Azure CLI is not supported", "set other credentials"));
                }
                let given = checked(builder.get_config_value(&AzureConfigKey::Endpoint))?;
                Arc::new(match endpoint.or(given) {
                    Some(endpoint) => builder.with_endpoint(endpoint).build().map_err(failed)?,
                    None => builder.build().map_err(failed)?,
                })
            }
            Self::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector { by_proxy });
                let given = checked(builder.get_config_value(&GoogleConfigKey::BaseUrl))?;
                Arc::new(match endpoint.or(given) {
                    Some(endpoint) => builder.with_base_url(&endpoint).build().map_err(failed)?,
                    None => builder.build().map_err(failed)?,
                })
            }
            Self::S3 => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector { by_proxy });
                for key in [
                    AmazonS3ConfigKey::Endpoint,
                    AmazonS3ConfigKey::MetadataEndpoint,
                    AmazonS3ConfigKey::S3Endpoint,
                    AmazonS3ConfigKey::StsEndpoint,
                ] {
                    checked(builder.get_config_value(&key))?;
                }
                Arc::new(match endpoint {
                    Some(endpoint) => {
                        let key = AmazonS3ConfigKey::S3Endpoint;
                        builder.with_config(key, endpoint).build().map_err(failed)?
                    }
                    None => builder.build().map_err(failed)?,
                })
            }
        })
    }
}

/// Returns what is wrong with the settings, and what to do. The error's own text contains their values, so it
/// is not used.
fn explain_settings(error: &Error) -> (&'static str, &'static str) {
    let text = error.to_string();
    let known = [
        ("Account must be specified", "set AZURE_STORAGE_ACCOUNT_NAME"),
        ("SAS", "correct AZURE_STORAGE_SAS_TOKEN"),
        ("Invalid Access Key", "correct AZURE_STORAGE_ACCOUNT_KEY"),
        ("service account", "check GOOGLE_SERVICE_ACCOUNT, and the file that it names"),
        ("AccessKeyId", "set AWS_ACCESS_KEY_ID, or neither it nor AWS_SECRET_ACCESS_KEY"),
        ("SecretAccessKey", "set AWS_SECRET_ACCESS_KEY, or neither it nor AWS_ACCESS_KEY_ID"),
    ];
    let advice = known.iter().find(|(part, _)| text.contains(part)).map(|(_, advice)| *advice);
    let advice = advice.unwrap_or("check the environment variables with the credentials");
    ("its settings in the environment cannot be used", advice)
}
