"""What if the store that quotas are counted in is away?"""
