//! keygen: makes a new age identity.

use tokenkeep::AgeKey;
use tokenkeep::secrecy::ExposeSecret;

use crate::arguments::Keygen;
use crate::context::Context;
use crate::failure::{DONE, Outcome};
use crate::selection::check_path;

pub(super) async fn keygen(context: &Context, keygen: &Keygen) -> Outcome {
    keygen.output.as_deref().map_or(Ok(()), check_path)?;
    let key = match &keygen.output {
        Some(path) if keygen.passphrase => {
            AgeKey::create_protected_identity_file(path, context.terminal.ask_new_passphrase()?)
                .await?
        }
        Some(path) => AgeKey::create_identity_file(path).await?,
        None => {
            let identity = AgeKey::generate_identity();
            #[expect(clippy::disallowed_methods, reason = "printing it is what was asked for")]
            context.terminal.print_secret(identity.expose_secret())?;
            let key = AgeKey::custom("the new key", move || Ok(identity.clone()));
            for recipient in key.recipients().await? {
                context.terminal.say(&format!("Public key: {recipient}"));
            }
            return DONE;
        }
    };
    for recipient in key.recipients().await? {
        context.terminal.print(&recipient)?;
    }
    DONE
}
