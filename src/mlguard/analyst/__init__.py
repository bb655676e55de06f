"""What do all rows together say?"""
