"""The reasons why a configuration is proposed."""
