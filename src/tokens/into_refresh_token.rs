use secrecy::SecretString;

use super::RefreshToken;

/// A refresh token, or an `Option` of one, in each form that a token is made of. It is for
/// [`AuthTokens::with_refresh_token`](super::AuthTokens::with_refresh_token).
pub trait IntoRefreshToken: sealed::Sealed {
    /// Returns the token, if there is one.
    fn into_refresh_token(self) -> Option<RefreshToken>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! into_refresh_token {
    ($($form:ty),+) => {$(
        impl sealed::Sealed for $form {}
        impl sealed::Sealed for Option<$form> {}

        impl IntoRefreshToken for $form {
            fn into_refresh_token(self) -> Option<RefreshToken> {
                Some(self.into())
            }
        }

        impl IntoRefreshToken for Option<$form> {
            fn into_refresh_token(self) -> Option<RefreshToken> {
                self.map(Into::into)
            }
        }
    )+};
}

into_refresh_token!(RefreshToken, SecretString, String, &str);
