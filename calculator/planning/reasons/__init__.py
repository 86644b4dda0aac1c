"""Why a configuration is proposed."""
