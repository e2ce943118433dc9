"""What a site lets out: policy, audit log, and what tensors reveal."""
