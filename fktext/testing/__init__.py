"""What a contract is tested with: an enumerable model, exact checks, a dense sampler."""
