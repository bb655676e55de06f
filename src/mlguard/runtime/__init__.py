"""Which processes stand beside the workers?"""
