"""How do the workers of a host meet?"""
